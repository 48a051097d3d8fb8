"""How a process of a training ends, and the last words of one that fails: in the Journal and on standard error."""

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
    """Report in both. `kind` is the type of the error that it stands for. Return the exit code."""
    record(journal, error.message, error.remedy, kind or type(error).__name__)
    return complain(error)


def record(journal: Journal, message: str, remedy: str, kind: str) -> None:
    """`training` is whether this attempt has learnt already: what happens before is about the set-up. On a full disk
    the last words get the place that was kept for them."""
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
        with contextlib.suppress(OSError):  # the log is still there, and the exit code
            journal.write(words)


def is_host_memory(error: Exception) -> bool:
    """The host refused memory, or its limit for us did."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in HOST_MEMORY))


def complain(error: Exception) -> int:
    """Write to standard error. Return the exit code."""
    remedy = getattr(error, "remedy", "")
    with contextlib.suppress(OSError):  # train.log lies on the disk that is full
        sys.stderr.write(f"{error}\n" + (f"next: {remedy}\n" if remedy else ""))
    return getattr(error, "exit_code", 1)


def out_of_memory(config: TrainConfig, error: Exception) -> RunError:
    """Of a GPU or of the host. The cure keeps the global batch, so what is learnt stays the same."""
    if config.batch_size_per_process > 1 and config.batch_size_per_process % 2 == 0:
        cure = (f"--set batch_size_per_process={config.batch_size_per_process // 2} "
                f"--set gradient_accumulation_steps={config.gradient_accumulation_steps * 2}")
    else:
        cure = "--set gradient_checkpointing=true"
    where = "host" if is_host_memory(error) else "GPU"
    return RunError(f"out of {where} memory: {_short(error)}", remedy=f"inv train --resume RUN {cure}")


def _short(error: Exception) -> str:
    """Without the place in torch's source, and the advice."""
    return str(error).partition("DefaultCPUAllocator: ")[2] or str(error).partition(". ")[0] or type(error).__name__


def end(code: int) -> NoReturn:
    """At once, without the interpreter's tear-down. What matters is on disk by now, and a library's thread that still
    runs then (gloo's, autograd's) can abort the process: a finished training would count as a failed one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk must not change the exit code
            stream.flush()
    os._exit(code)
