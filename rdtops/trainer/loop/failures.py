"""Failures: how a training's process reports its error, in the Journal and on standard error, and ends.

A process that has failed is gone soon, whatever its children and the threads of its libraries do: nothing of the
interpreter's tear-down is run, and what takes too long is cut short.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Event, Journal
from rdtops.errors import RdtopsError, RunError
from rdtops.trainer import child_processes
from rdtops.trainer.loop import disk_space

LAST_WORDS_S = 5.0  # for the Journal and the log of a process that has failed
END_S = 2.0  # to kill its children and to write what its streams hold
HOST_MEMORY = ("DefaultCPUAllocator", "Cannot allocate memory")  # torch has no error type of its own for it


def tell(journal: Journal, error: RdtopsError, kind: str = "") -> int:
    """Report an error in the Journal and on standard error. `kind`: the type of the original error. Return the exit
    code."""
    record(journal, error.message, error.remedy, kind or type(error).__name__)
    return complain(error)


def record(journal: Journal, message: str, remedy: str, kind: str) -> None:
    """Record a failure in the Journal. `training`: whether this attempt has already trained; an earlier failure is of
    the set-up. On a full disk it uses the reserve."""
    told = [e for e in journal.read() if e.kind in ("step", "launched", "attempt", "started")]
    steps = [e.data["step"] for e in told if e.kind == "step"]
    words = Event("failed", time.time(), {
        "step": steps[-1] if steps else 0, "error": message, "remedy": remedy, "type": kind,
        "rank": int(os.environ.get("RANK", "0")), "training": bool(told) and told[-1].kind in ("step", "started")})
    try:
        journal.write(words)
    except OSError as error:
        if not disk_space.is_full(error):
            raise
        disk_space.give_up_reserve(journal.path.parent)
        with contextlib.suppress(OSError):  # the log and the exit code still report it
            journal.write(words)


def is_host_memory(error: Exception) -> bool:
    """Tell whether the host, or a memory limit on it, refused memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in HOST_MEMORY))


def complain(error: BaseException) -> int:
    """Write to standard error. Return the exit code."""
    remedy = getattr(error, "remedy", "")
    with contextlib.suppress(OSError):  # train.log is on the full disk
        sys.stderr.write(f"{error}\n" + (f"next: {remedy}\n" if remedy else ""))
    return getattr(error, "exit_code", 1)


def out_of_memory(config: TrainConfig, error: Exception) -> RunError:
    """Describe that a GPU or the host is out of memory. The remedy keeps the global batch, so the result is the
    same."""
    if config.batch_size_per_process > 1 and config.batch_size_per_process % 2 == 0:
        cure = (f"--set batch_size_per_process={config.batch_size_per_process // 2} "
                f"--set gradient_accumulation_steps={config.gradient_accumulation_steps * 2}")
    else:
        cure = "--set gradient_checkpointing=true"
    where = "host" if is_host_memory(error) else "GPU"
    return RunError(f"out of {where} memory: {_short(error)}", remedy=f"inv train --resume RUN {cure}")


def _short(error: Exception) -> str:
    """Return the message without torch's source location and advice."""
    return str(error).partition("DefaultCPUAllocator: ")[2] or str(error).partition(". ")[0] or type(error).__name__


def leave(main: Callable[[], int]) -> NoReturn:
    """Run a program's main function and end the process with its exit code: 1 and a traceback for an error."""
    try:
        code = main()
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else complain(asked) if asked.code else 0
    except BaseException:
        with within(LAST_WORDS_S, 1):
            traceback.print_exc()
        code = 1
    end(code)


def end(code: int) -> NoReturn:
    """Exit at once, without the interpreter's tear-down. Everything is on disk by now, and it would wait for children
    and for threads; or a library's thread that still runs (gloo's, autograd's) could abort the process, and a finished
    training would count as failed."""
    with within(END_S, code):
        child_processes.kill_all()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk must not change the exit code
                stream.flush()
        os._exit(code)


@contextlib.contextmanager
def within(limit_s: float, code: int) -> Iterator[None]:
    """Write the stacks of all threads and exit with `code`, should what is done within not have ended by then."""
    timer = threading.Timer(limit_s, _cut_short, (limit_s, code))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread can be started: then without a limit
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut_short(limit_s: float, code: int) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"the process has not ended within {limit_s:g} s, and exits now; its stacks:\n".encode())
        faulthandler.dump_traceback(2, all_threads=True)
    child_processes.kill_all()
    os._exit(code)
