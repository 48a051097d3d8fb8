"""`inv bench NAME`: measure a promise of ours side by side with what it is promised against.

A bench is a module here with `measure(say, *, quick, only) -> Iterator[Measured]`: `quick` asks for the fewest runs;
`only` is a word that the names of its rows must have. To add one, add a line to BENCHES.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from rdtops.errors import UsageError
from rdtops.ops.repository import Measured, Say

BENCHES = {
    "closed-loop": "rdtops.benches.closed_loop",
    "startup": "rdtops.benches.startup",
    "check": "rdtops.benches.check",
    "scale": "rdtops.benches.scale",
    "trainer": "rdtops.benches.trainer",
    "transfer": "rdtops.benches.transfer",
}


def bench(say: Say, name: str, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    """Raises UsageError when there is no bench of that name."""
    if name not in BENCHES:
        raise UsageError(f"there is no bench {name!r}; benches: {', '.join(BENCHES)}")
    yield from importlib.import_module(BENCHES[name]).measure(say, quick=quick, only=only)
