"""How a process of a training ends, and the last words of one that fails: in the Journal and on standard error."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Journal
from rdtops.errors import RdtopsError, RunError


def tell(journal: Journal, error: RdtopsError) -> int:
    """In both. Returns the exit code."""
    record(journal, error.message, error.remedy)
    return complain(error)


def record(journal: Journal, message: str, remedy: str) -> None:
    steps = [e.data["step"] for e in journal.read() if e.kind == "step"]
    journal.append("failed", step=steps[-1] if steps else 0, error=message, remedy=remedy)


def complain(error: Exception) -> int:
    """On standard error. Returns the exit code."""
    remedy = getattr(error, "remedy", "")
    sys.stderr.write(f"{error}\n" + (f"next: {remedy}\n" if remedy else ""))
    return getattr(error, "exit_code", 1)


def out_of_memory(config: TrainConfig, error: Exception) -> RunError:
    """The cure keeps the global batch, so what is learnt stays the same."""
    if config.batch_size_per_process > 1 and config.batch_size_per_process % 2 == 0:
        cure = (f"--set batch_size_per_process={config.batch_size_per_process // 2} "
                f"--set gradient_accumulation_steps={config.gradient_accumulation_steps * 2}")
    else:
        cure = "--set gradient_checkpointing=true"
    return RunError(f"out of GPU memory: {str(error).partition('.')[0]}", remedy=f"inv train --resume RUN {cure}")


def end(code: int) -> NoReturn:
    """At once, without the interpreter's tear-down. What matters is on disk by now, and a library's thread that still
    runs then (gloo's, autograd's) can abort the process: a finished training would count as a failed one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
