"""`inv bench trainer`: run the trainer's benchmark, with one thread a process as inv train starts it."""

from __future__ import annotations

from collections.abc import Iterator

from proofs.benches.trainer_program import measured_by
from rdtops.ui.repository import ROOT, Measured, Say


def measure(say: Say, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    say("python -m proofs.trainer_bench.speed")
    yield from measured_by(["proofs.trainer_bench.speed", str(ROOT / "rdtops" / "lab" / "data"),
                            *(["--quick"] if quick else []), "--only", only], "[demo]")
