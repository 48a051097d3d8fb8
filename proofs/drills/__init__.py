"""Drills of `inv drill NAME`: inject a fault, and check that rdtops recovers from it.

A drill is a module here with `drill(say, *, kills, only) -> Iterator[Drilled]`: `kills` is how many, 0 as many as it is
made for; `only` is a word that the names of its rows must have, or several with commas; those of WITH_DOOR also take
the `door` of the lab's jump host. To add one, add a line to DRILLS.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from rdtops.errors import UsageError
from rdtops.lab import doors
from rdtops.ui.repository import Drilled, Say

DRILLS = {
    "disk": "proofs.drills.disk_drill",
    "hostile": "proofs.drills.hostile_drill",
    "laptop": "proofs.drills.laptop_drill",
    "network": "proofs.drills.network_drill",
    "transfer": "proofs.drills.transfer_drill",
    "training": "proofs.drills.training_drill",
    "survive": "proofs.drills.survive_drill",
    "why": "proofs.drills.why_drill",
}
WITH_DOOR = ("laptop", "network")


def is_wanted(name: str, only: str) -> bool:
    """Tell whether a row of that name was requested."""
    return any(word.strip() in name for word in only.split(","))


def drill(say: Say, name: str, *, kills: int = 0, only: str = "", door: str = "") -> Iterator[Drilled]:
    """Run a drill; `door`: that of the lab's jump host. Raise UsageError when there is no drill of that name, or none
    at that door."""
    if name not in DRILLS:
        raise UsageError(f"there is no drill {name!r}; drills: {', '.join(DRILLS)}")
    if door and name not in WITH_DOOR:
        raise UsageError(f"the drill {name} has no --door; with one: {', '.join(WITH_DOOR)}")
    if doors.told_by(door):
        raise UsageError(f"the door {door} asks a person at each login, and a drill types without one")
    at_door = {"door": door} if door else {}
    yield from importlib.import_module(DRILLS[name]).drill(say, kills=kills, only=only, **at_door)
