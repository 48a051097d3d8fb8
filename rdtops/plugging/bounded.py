"""Bounded: run foreign code so that it can neither block nor end this process."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rdtops.errors import PluginTimeout
from rdtops.plugging import prints


@dataclass(frozen=True)
class BoundedOutcome:
    """The outcome of a call: a value, or the exception it raised."""

    value: Any
    seconds: float
    error: BaseException | None = None


def raised(error: BaseException) -> str:
    """Return an exception of foreign code in words, with the file and line that raised it."""
    words = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{words} ({frames[-1].filename}:{frames[-1].lineno})" if frames else words


DEBUG = "RDTOPS_DEBUG"  # set: what a plugin raises is printed with its traceback


def bounded(plugin: str, work: Callable[[], Any], limit_s: float) -> BoundedOutcome:
    """Run `work` of a plugin. Whatever it raises, SystemExit too, is the outcome's error; PluginTimeout when it is not
    done in time. It then continues in a daemon thread, since Python cannot stop it. Only os._exit and a crash of the
    interpreter are not caught."""
    outcomes: list[BoundedOutcome] = []
    start = time.monotonic()

    def run() -> None:
        value, error = None, None
        try:
            with prints.named(plugin):
                value = work()
        except BaseException as foreign:  # any exception is the outcome of the call
            error = foreign
            error.__traceback__ = _from_its_code(foreign.__traceback__)
            if os.environ.get(DEBUG):
                sys.stderr.write("".join(f"[{plugin}] {line}" for line in traceback.format_exception(error)))
        outcomes.append(BoundedOutcome(value, time.monotonic() - start, error))

    context = contextvars.copy_context()  # of `together`: its questions travel with those of others
    thread = threading.Thread(target=context.run, args=(run,), daemon=True, name="plugin")
    thread.start()
    thread.join(limit_s)
    if not outcomes:
        return BoundedOutcome(None, time.monotonic() - start, PluginTimeout(f"not done after {limit_s:g} s"))
    return outcomes[0]


def _from_its_code(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this file."""
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
