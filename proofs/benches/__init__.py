"""Benchmarks of `inv bench NAME`: measure a promise of rdtops side by side with the tool it is compared with.

A bench is a module here with `measure(say, *, quick, only) -> Iterator[Measured]`: `quick` asks for the fewest runs;
`only` is a word that the names of its rows must contain. To add one, add a line to BENCHES.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from rdtops.errors import UsageError
from rdtops.ui.repository import Measured, Say

BENCHES = {
    "closed-loop": "proofs.benches.closed_loop_bench",
    "startup": "proofs.benches.startup_bench",
    "check": "proofs.benches.check_bench",
    "scale": "proofs.benches.scale_bench",
    "trainer": "proofs.benches.trainer_bench",
    "transfer": "proofs.benches.transfer_bench",
}


def bench(say: Say, name: str, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    """Run a bench. Raise UsageError when there is no bench of that name."""
    if name not in BENCHES:
        raise UsageError(f"there is no bench {name!r}; benches: {', '.join(BENCHES)}")
    yield from importlib.import_module(BENCHES[name]).measure(say, quick=quick, only=only)
