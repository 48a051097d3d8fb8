"""Benchmarks of `inv bench NAME`: measure a promise of rdtops side by side with the tool it is compared with.

A bench is a module here with `measure(say, *, quick, only) -> Iterator[Measured]`: `quick` asks for the fewest runs;
`only` is a word that the names of its rows must contain. To add one, add a line to BENCHES. That of the GPU can run on
a host, and keeps its rows in a file (gpu_bench).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from rdtops.errors import UsageError
from rdtops.views.output import WorkflowOutput
from rdtops.workflows.session import Session

BENCHES = {
    "closed-loop": "proofs.benches.closed_loop_bench",
    "startup": "proofs.benches.startup_bench",
    "check": "proofs.benches.check_bench",
    "gpu": "proofs.benches.gpu_bench",
    "scale": "proofs.benches.scale_bench",
    "trainer": "proofs.benches.trainer_bench",
    "transfer": "proofs.benches.transfer_bench",
}


def bench(session: Session, name: str, *, host: str = "", quick: bool = False, only: str = "",
          keep: bool = False) -> Iterator[WorkflowOutput]:
    """Run a bench. `keep`: in a file too, where the bench does that. Raise UsageError when there is no bench of that
    name, or it does not run on a host."""
    if name not in BENCHES:
        raise UsageError(f"there is no bench {name!r}; benches: {', '.join(BENCHES)}")
    measure = importlib.import_module(BENCHES[name]).measure
    if name == "gpu":
        yield from measure(session, host=host, quick=quick, only=only, keep=keep)
    elif host:
        raise UsageError(f"the bench {name!r} runs on this machine", remedy=f"inv bench {name}")
    else:
        yield from measure(session.say, quick=quick, only=only)
