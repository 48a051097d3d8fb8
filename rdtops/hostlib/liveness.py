"""Liveness: whether a run, an evaluation or any other job of ours is alive and how it ended, by the files of its folder
and the process table. Standard library, Python 3.8: sent with host programs."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from rdtops.hostlib import processes
from rdtops.hostlib.fields import decimal
from rdtops.hostlib.files import text_of, write_whole

RUN, EVALUATION = "RDTOPS_RUN", "RDTOPS_EVAL"  # variables in the environment of every process of one
NAMING = ("process", "supervisor")  # files that name a process; either process writes how the run ended


@dataclass(frozen=True)
class Liveness:
    launched: bool  # its script has begun
    process: str  # `pid starttime boot_id` of the script, '' where the file is empty
    alive: bool
    exit_text: str  # the content of the file `exit`
    stop_requested: bool

    @property
    def exit_code(self) -> int | None:
        """The exit code; None before it ended, where it was killed, and where `exit` has no number."""
        return decimal(self.exit_text)

    @property
    def same_boot(self) -> bool:
        """False when the host was rebooted since it began."""
        words = self.process.split()
        return len(words) < 3 or words[2] == processes.boot_id()


def is_carried(tag: str) -> bool:
    return bool(processes.carrying(tag))


def carried_in_one_look() -> Callable[[str], bool]:
    """Return `is_carried` for the runs of a folder: the processes are looked at once, and only if one is asked for."""
    tags = functools.lru_cache(maxsize=None)(lambda: processes.carried(RUN))
    return lambda tag: tag in tags()


def read(folder: str, tag: str, is_carried: Callable[[str], bool] = is_carried) -> Liveness:
    """Read the state of a job. It is alive while its script or its supervisor is. Where both were killed before they
    wrote an exit code, it is alive while any process carries its `tag`: the ranks may continue without them."""
    named = {name: text_of(os.path.join(folder, name)).strip() for name in NAMING}
    alive = any(processes.is_alive(process) for process in named.values())
    exit_text = text_of(os.path.join(folder, "exit")).strip()  # read after `alive`: written before the process ends
    launched = os.path.exists(os.path.join(folder, "process"))
    if launched and not alive and decimal(exit_text) is None:
        alive = is_carried(tag)
    return Liveness(launched, named["process"], alive, exit_text, os.path.exists(os.path.join(folder, "stop")))


def ask_to_stop(folder: str) -> None:
    """Write the file `stop`, which records that a stop was requested. Ignore errors, such as a full disk: the processes
    are stopped anyway."""
    with contextlib.suppress(OSError):
        write_whole(os.path.join(folder, "stop"), f"{time.time():.0f}\n")
