"""Failures: how a training's process reports its error, in the Journal and on standard error, and ends."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import NoReturn

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Event, Journal
from rdtops.errors import RdtopsError, RunError
from rdtops.trainer.loop import disk_space

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


def complain(error: Exception) -> int:
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


def end(code: int) -> NoReturn:
    """Exit at once, without the interpreter's tear-down. Everything is on disk by now, and a library's thread that
    still runs (gloo's, autograd's) could abort the process: a finished training would count as failed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk must not change the exit code
            stream.flush()
    os._exit(code)
