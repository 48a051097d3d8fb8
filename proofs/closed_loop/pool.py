"""Pool: one function for many jobs in parallel processes, each of which sets it up once.

For programs that need all results: the first job that fails ends them. An evaluation continues without a job whose
process dies (rdtops.trainer.simulation.workers).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from rdtops.errors import RdtopsError

Tool = TypeVar("Tool")
Job = TypeVar("Job")
Result = TypeVar("Result")

_tool: Any = None  # of this process, if it belongs to a pool


def shared_out(make: Callable[[], Tool], work: Callable[[Tool, Job], Result], jobs: Sequence[Job],
               processes: int) -> Iterator[Result]:
    """Yield the results of `work(make(), job)`, in the order of the jobs. Raise the first RdtopsError of one."""
    context = multiprocessing.get_context("spawn")  # a fork would share the renderer
    with context.Pool(min(processes, len(jobs)), _enter, (make,)) as pool:
        for result in pool.imap(partial(_done, work), jobs):
            if isinstance(result, RdtopsError):
                raise result
            yield result


def _enter(make: Callable[[], Any]) -> None:
    global _tool  # noqa: PLW0603
    _tool = make()


def _done(work: Callable[[Any, Any], Any], job: Any) -> Any:
    try:
        return work(_tool, job)
    except RdtopsError as error:
        return error
