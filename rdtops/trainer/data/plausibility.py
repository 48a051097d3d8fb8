"""Implausible statistics: values that no robot can produce, by slot and unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdtops.trainer.data.actions import Codec, slot_name

WIDEST_STD = 100.0  # in any unit: metres and rad never spread this far
_FARTHEST = {"(rad)": 7.0, "(m)": 3.0, "(0 to 1)": 1.3, "(column)": 1.01, "(m/s)": 1.01, "(rad/s)": 10.1}


@dataclass(frozen=True)
class Implausible:
    """One implausible value. `is_wrong`: training on it makes no sense. Otherwise it is odd, and may be correct."""

    kind: str  # state or action
    slot: str
    says: str
    is_wrong: bool


def implausible(statistics: dict[str, Any], using: Codec) -> list[Implausible]:
    """List the implausible values of the slots that the codec uses. In other slots any value except 0 is wrong."""
    return [one for kind, mask in (("state", using.state_mask), ("action", using.action_mask))
            for slot in range(len(mask)) for one in _slot(kind, slot, bool(mask[slot]), statistics[kind], using)]


def _slot(kind: str, slot: int, is_used: bool, numbers: dict[str, list[float]], using: Codec) -> Iterator[Implausible]:
    mean, std, low, high = (float(numbers[what][slot]) for what in ("mean", "std", "min", "max"))
    name = slot_name(slot)
    if not np.isfinite([mean, std, low, high]).all():
        yield Implausible(kind, name, f"not finite: mean {mean}, std {std}, from {low} to {high}", True)
    elif not is_used:
        if any((mean, std, low, high)):
            yield Implausible(kind, name, f"{using.name} does not use this slot, but its mean is {mean:.3g}", True)
    elif std > WIDEST_STD:
        yield Implausible(kind, name, f"std {std:.3g} is above {WIDEST_STD:g}", True)
    elif max(-low, high) > _farthest(name, using):
        yield Implausible(kind, name, f"from {low:.3g} to {high:.3g} is beyond a robot's range: another unit?", True)
    elif low == high:
        yield Implausible(kind, name, f"always {mean:.3g}: constant in these data", False)


def _farthest(name: str, using: Codec) -> float:
    """Return the largest plausible value. Codecs in other units (seed_compat's centimetres, a gain) have no limit."""
    gain = max(getattr(using, f, 1.0) for f in ("velocity_gain", "angular_velocity_gain"))
    unit = name.rpartition(" ")[2] if "0 to 1" not in name else "(0 to 1)"
    return _FARTHEST.get(unit, WIDEST_STD) * max(gain, 1.0)
