"""Scale: the position of steps and values on a plot, for the terminal and the report. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE_RANGE = 30.0  # ratio of the largest to the smallest value from which the axis is logarithmic


@dataclass(frozen=True)
class Scale:
    """A mapping of values and steps to fractions of the plot, 0 to 1."""

    first: float
    last: float
    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, curves: Sequence[Sequence[tuple[float, float]]], logarithmic: bool | None = None) -> Scale:
        """Make the scale of `curves`: (step, value) of each, all finite, none empty. `logarithmic` None: automatic."""
        steps = [step for points in curves for step, _ in points]
        values = [value for points in curves for _, value in points]
        low, high = min(values), max(values)
        if logarithmic is None:
            logarithmic = low > 0 and high / low > WIDE_RANGE
        logarithmic = logarithmic and low > 0
        if not logarithmic:
            low = min(0.0, low)
        if high <= low:
            high = low + (abs(low) or 1.0)
        return cls(min(steps), max(*steps, min(steps) + 1), low, high, logarithmic)

    def x(self, step: float) -> float:
        return (step - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, share: float) -> float:
        """Return the value at that fraction of the height."""
        if self.logarithmic:
            return self.low * math.exp(share * math.log(self.high / self.low))
        return self.low + share * (self.high - self.low)
