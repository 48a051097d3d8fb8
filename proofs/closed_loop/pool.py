"""One kind of work for many jobs, shared out over processes that each make once what it takes.

For programs whose whole result is wanted: the first job that fails ends them. An evaluation goes on without a job whose
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

_tool: Any = None  # of this process, where it is one of a pool


def shared_out(make: Callable[[], Tool], work: Callable[[Tool, Job], Result], jobs: Sequence[Job],
               processes: int) -> Iterator[Result]:
    """What `work(make(), job)` gives, in the order of the jobs. Raises the first RdtopsError of one."""
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
