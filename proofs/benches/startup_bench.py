"""`inv bench startup`: `inv --list` and `inv --help train` here against plain Invoke on an empty tasks.py, in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rdtops.ui.repository import ROOT, Measured, Say

GOAL = 2
PLAIN = "--list"  # an empty tasks.py has no task to help with


def measure(say: Say, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    """Measure. Medians of 15 runs, the quick form of 5."""
    rounds = 5 if quick else 15
    with tempfile.TemporaryDirectory() as empty:
        Path(empty, "tasks.py").touch()
        for arguments in ("--list", "--help train"):
            if only not in arguments:
                continue
            say(f"inv {arguments} beside plain Invoke: {rounds} x in turn")
            ours, theirs = [], []
            for _ in range(rounds):
                theirs.append(_seconds(PLAIN, empty))
                ours.append(_seconds(arguments, str(ROOT)))
            ratio = statistics.median(ours) / statistics.median(theirs)
            yield Measured(f"inv {arguments}", round(ratio, 2), f"at most {GOAL} x plain Invoke on an empty tasks.py",
                           ratio <= GOAL, "inv bench startup")


def _seconds(arguments: str, folder: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "invoke", *arguments.split()], cwd=folder, check=False,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start_s
