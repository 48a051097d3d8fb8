"""Drills of `inv drill NAME`: inject a fault, and check that rdtops recovers from it.

A drill is a module here with `drill(say, *, kills, only) -> Iterator[Drilled]`: `kills` is how many, 0 as many as it is
made for; `only` is a word that the names of its rows must have, or several with commas; some take
another option (OPTIONS). To add one, add a line to DRILLS.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from rdtops.errors import UsageError
from rdtops.lab import doors
from rdtops.ui.repository import Drilled, Say

DRILLS = {
    "environments": "proofs.drills.environments_drill",
    "disk": "proofs.drills.disk_drill",
    "hostile": "proofs.drills.hostile_drill",
    "laptop": "proofs.drills.laptop_drill",
    "network": "proofs.drills.network_drill",
    "transfer": "proofs.drills.transfer_drill",
    "training": "proofs.drills.training_drill",
    "survive": "proofs.drills.survive_drill",
    "why": "proofs.drills.why_drill",
}
OPTIONS = {
    "door": ("laptop", "network"),  # of the lab's jump host
    "folder": ("environments",),  # where its venvs are kept
}


def is_wanted(name: str, only: str) -> bool:
    """Tell whether a row of that name was requested."""
    return any(word.strip() in name for word in only.split(","))


def drill(say: Say, name: str, *, kills: int = 0, only: str = "", **options: str) -> Iterator[Drilled]:
    """Run a drill; `options`: those of OPTIONS that it has. Raise UsageError when there is no drill of that name, or
    it has no such option."""
    if name not in DRILLS:
        raise UsageError(f"there is no drill {name!r}; drills: {', '.join(DRILLS)}")
    given = {option: value for option, value in options.items() if value}
    for option in given:
        if name not in OPTIONS[option]:
            raise UsageError(f"the drill {name} has no --{option}; with one: {', '.join(OPTIONS[option])}")
    if doors.told_by(given.get("door", "")):
        raise UsageError(f"the door {given['door']} asks a person at each login, and a drill types without one")
    yield from importlib.import_module(DRILLS[name]).drill(say, kills=kills, only=only, **given)
