"""GPU use: the samples of gpus.jsonl as curves over hours, and in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rdtops.hostlib import fields, files
from rdtops.hostlib.nvidia_smi import READINGS

MOST_SAMPLES = 100_000  # that are read: 69 days
HOUR_S = 3600.0
Points = list[tuple[float, float]]  # hours since the first sample, value


@dataclass(frozen=True)
class GpuUse:
    """Samples by column: the time in hours, and the known values of the GPUs at that time."""

    samples: dict[str, list[tuple[float, list[float]]]]

    @classmethod
    def read(cls, path: Path) -> GpuUse:
        """Read gpus.jsonl. Lines that are no sample are left out; a missing file has none."""
        found: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in READINGS}
        rows = list(_rows(path))
        for row in rows:
            hours = ((fields.number(row.get("time_s")) or 0.0) - (fields.number(rows[0].get("time_s")) or 0.0)) / HOUR_S
            for column in READINGS:
                values = row.get(column)
                known = [v for v in map(fields.number, values) if v is not None] if isinstance(values, list) else []
                if known:
                    found[column].append((hours, known))
        return cls(found)

    def mean(self, column: str) -> Points:
        return [(hours, sum(values) / len(values)) for hours, values in self.samples[column]]

    def least(self, column: str) -> Points:
        return [(hours, min(values)) for hours, values in self.samples[column]]

    @property
    def words(self) -> dict[str, str]:
        """Return the use in words, by name; only what was sampled."""
        loads, powers = self.mean("utilization_percent"), self.mean("power_w")
        hottest = max((max(values) for _, values in self.samples["temperature_c"]), default=None)
        found = {}
        if loads:
            least = _mean(self.least("utilization_percent"))
            found["load"] = f"{_mean(loads):.0f} % on average, {least:.0f} % of the least busy GPU"
        if powers:
            found["power"] = f"{_mean(powers):.0f} W for each GPU, on average"
        if hottest is not None:
            found["hottest"] = f"{hottest:.0f} °C"
        return found


def _rows(path: Path) -> Iterator[dict[str, object]]:
    with suppress(OSError):
        for line in islice(files.lines_of(path), MOST_SAMPLES):
            with suppress(ValueError):
                row = fields.table(fields.loads(line))
                if fields.number(row.get("time_s")) is not None:
                    yield row


def _mean(points: Points) -> float:
    return sum(value for _, value in points) / len(points)
