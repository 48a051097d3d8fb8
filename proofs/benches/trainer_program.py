"""Trainer program: a bench in a separate process, so that torch is imported there; rows are JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from rdtops.ui.repository import ROOT, Measured, StepFailed


def measured_by(words: Sequence[str], extras: str) -> Iterator[Measured]:
    """Run `python -m WORDS`. Raise StepFailed, naming the extras that it needs, when it fails."""
    with subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as program:
        assert program.stdout
        for line in program.stdout:
            yield Measured(**json.loads(line))
    if program.returncode:
        raise StepFailed(f"the benchmark ended with exit {program.returncode}; it needs the packages of {extras}",
                         remedy=f"pip install -c constraints.txt -e '.{extras}'")
