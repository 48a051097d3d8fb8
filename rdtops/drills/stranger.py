from __future__ import annotations
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sat:
    attack: str
    did: str
    seconds: float
    seen: str
    passed: bool


def attacks(folder: Path) -> Iterator[Sat]:
    yield from ()
