"""Odd jobs: what the workers of test_workers do. A worker imports this module, so it imports nothing heavy."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from rdtops.errors import WeightsError


def doubling(folder: Path, number: int, beat):
    """Doubles a number. A job that is a word does what the word says, once or always."""
    def do(job):
        (folder / f"pid-{os.getpid()}-{number}").touch()
        if isinstance(job, int):
            return job * 2
        word, always = job
        if always or not (folder / word).exists():
            (folder / word).touch()
            if word == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "silent":
                time.sleep(60)
            raise ValueError(word)
        return word
    return do


def refusing(number, beat):
    raise WeightsError("these weights do not fit", remedy="others")


def dying(number, beat):
    os.kill(os.getpid(), signal.SIGSEGV)


def lingering(folder: Path, number: int, beat):
    """A worker with what keeps a Python process from ending. A job that is a word raises it; -1 stops the process."""
    def do(job):
        (folder / f"pid-{os.getpid()}-{number}").touch()
        threading.Thread(target=threading.Event().wait).start()
        if isinstance(job, str):
            raise ValueError(job)
        if job < 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return job
    return do
