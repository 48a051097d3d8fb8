"""Tally: the successful trials of a task, or of all tasks, from an evaluation's report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.hostlib import fields


def number_words(value: object, form: str = "{}", unit: float = 1) -> str:
    """Format a number of an untrusted file: '' for None, '?' for anything but a finite number."""
    read = fields.number(value)
    return form.format(read * unit if unit != 1 else read) if read is not None else "" if value is None else "?"
NO_OUTCOME = "no outcome"  # where no trial has ended, but with errors


@dataclass(frozen=True)
class Tally:
    """The successes of one task, or of all. `rate` and `interval` (Wilson's, 95 %) are fractions of 1, None where no
    trial counted or the report has none. The words are valid whatever a report holds."""

    language: str  # the task's instruction
    rate: float | None
    interval: tuple[float, float] | None
    counts_words: str  # 17 of 20, or NO_OUTCOME
    rate_words: str  # 85.0 %
    interval_words: str  # 64.0 to 94.8 %
    steps_words: str  # to the success, the mean
    errors_words: str  # of the simulator; '' when there were none

    @property
    def has_outcome(self) -> bool:
        return self.counts_words != NO_OUTCOME

    @classmethod
    def of(cls, row: Mapping[str, Any], language: str = "") -> Tally:
        interval, rate = _interval(row.get("wilson_95")), fields.number(row.get("success_rate"))
        interval_words = ("" if row.get("wilson_95") is None else "?" if interval is None else
                          f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %")
        counts = [number_words(row.get(name)) or "?" for name in ("successes", "trials")]
        return cls(language or fields.text(row.get("language")) or "?", rate, interval,
                   NO_OUTCOME if not row or counts[1] == "0" else " of ".join(counts),
                   number_words(row.get("success_rate"), "{:.1f} %", 100), interval_words,
                   number_words(row.get("mean_steps_to_success"), "{:.0f}"),
                   number_words(row.get("errors") or None))


def tallies(report: Mapping[str, Any], all_tasks: str) -> list[Tally]:
    """Return the tally of each task, then that of all, named `all_tasks`."""
    return [*map(Tally.of, fields.rows(report.get("tasks"))), Tally.of(fields.table(report.get("total")), all_tasks)]


def _interval(value: object) -> tuple[float, float] | None:
    ends = [fields.number(end) for end in value] if isinstance(value, (list, tuple)) else []
    low, high = ends if len(ends) == 2 else (None, None)
    return None if low is None or high is None else (low, high)
