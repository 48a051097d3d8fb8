"""Liveness: whether a run, an evaluation or any other job of ours is alive and how it ended, as the files of its folder
and the process table say. Standard library, Python 3.8: far-side programs bring it along."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from rdtops.hostlib import processes
from rdtops.hostlib.fields import decimal
from rdtops.hostlib.files import text_of, write_whole

RUN, EVALUATION = "RDTOPS_RUN", "RDTOPS_EVAL"  # variables that every process of one has in its environment
NAMING = ("process", "supervisor")  # files that name a process; either of the two writes how the run ended


@dataclass(frozen=True)
class Liveness:
    launched: bool  # its script has begun
    process: str  # `pid starttime boot_id` of that, '' where the file holds nothing
    alive: bool
    exit_text: str  # what the file `exit` holds
    stop_requested: bool

    @property
    def exit_code(self) -> int | None:
        """None before it ended, where it was killed, and where `exit` holds no number."""
        return decimal(self.exit_text)

    @property
    def same_boot(self) -> bool:
        """False when the host was started anew since it began."""
        words = self.process.split()
        return len(words) < 3 or words[2] == processes.boot_id()


def is_carried(tag: str) -> bool:
    return bool(processes.carrying(tag))


def read(folder: str, tag: str, is_carried: Callable[[str], bool] = is_carried) -> Liveness:
    """It is alive while its script or its supervisor is. Where both were killed before they wrote an exit code, it is
    alive while any process carries its `tag`: the ranks may go on without."""
    named = {name: text_of(os.path.join(folder, name)).strip() for name in NAMING}
    alive = any(processes.is_alive(process) for process in named.values())
    exit_text = text_of(os.path.join(folder, "exit")).strip()  # after that: it is written before the process ends
    launched = os.path.exists(os.path.join(folder, "process"))
    if launched and not alive and decimal(exit_text) is None:
        alive = is_carried(tag)
    return Liveness(launched, named["process"], alive, exit_text, os.path.exists(os.path.join(folder, "stop")))


def ask_to_stop(folder: str) -> None:
    """Leave word that somebody wants its end. A disk that is full, or a broken file of that name, is no reason to let
    the processes run on."""
    with contextlib.suppress(OSError):
        write_whole(os.path.join(folder, "stop"), f"{time.time():.0f}\n")
