"""`inv bench closed-loop`: success rates of policies trained here. Videos of a success and a failure are written to
.lab/closed-loop.
"""

from __future__ import annotations

from collections.abc import Iterator

from proofs.benches.trainer_program import measured_by
from rdtops.ui.repository import ROOT, Measured, Say


def measure(say: Say, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    say("python -m proofs.closed_loop.benchmark")
    yield from measured_by(["proofs.closed_loop.benchmark", *(["--quick"] if quick else []), "--only", only,
                            "--films", str(ROOT / ".lab" / "closed-loop")], "[trainer,eval]")
