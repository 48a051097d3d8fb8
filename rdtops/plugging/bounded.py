"""Bounded: somebody else's code, run so that it can neither keep us waiting for ever nor end us."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rdtops.errors import PluginTimeout


@dataclass(frozen=True)
class BoundedOutcome:
    """What became of a call: a value, or the exception it raised."""

    value: Any
    seconds: float
    error: BaseException | None = None


def bounded(work: Callable[[], Any], limit_s: float) -> BoundedOutcome:
    """Whatever `work` raises, SystemExit too, is the outcome's error; PluginTimeout when it is not done in time. It
    goes on then, in a thread that does not keep this process from ending: Python cannot stop it. Only os._exit and a
    crash of the interpreter go past this."""
    said: list[BoundedOutcome] = []
    start = time.monotonic()

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # whatever it is, it belongs to whoever was called
            error = raised
        said.append(BoundedOutcome(value, time.monotonic() - start, error))

    context = contextvars.copy_context()  # of `together`: what it asks travels with the questions of others
    thread = threading.Thread(target=context.run, args=(run,), daemon=True, name="plugin")
    thread.start()
    thread.join(limit_s)
    if not said:
        return BoundedOutcome(None, time.monotonic() - start, PluginTimeout(f"not done after {limit_s:g} s"))
    return said[0]
