"""Outcomes: the trials of an evaluation's report.json, and why it has none. Words are valid whatever a report holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rdtops.contract.tally import Tally, number_words
from rdtops.hostlib import fields, names
from rdtops.hostlib.names import RelativePath

FAILURE, ERROR, SUCCESS = "failure", "error", "success"
WORST_FIRST = (FAILURE, ERROR, SUCCESS)
_REASONS = ("failed: ", "no trial has an outcome")  # how the note begins that says why, before 2026-11-28


@dataclass(frozen=True)
class TrialOutcome:
    task: str  # its name
    number: str
    outcome: str  # one of WORST_FIRST; '' for anything else
    steps: str
    reason: str  # of an error, or of a missing video
    video: RelativePath | Literal[""]  # below videos/ of the evaluation's folder

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> TrialOutcome:
        outcome = fields.text(row.get("outcome"))
        return cls(fields.text(row.get("task")), number_words(row.get("trial")) or "?",
                   outcome if outcome in WORST_FIRST else "", number_words(row.get("steps")) or "?",
                   fields.text(row.get("error")) or fields.text(row.get("video_error")), _video(row.get("video")))


def trial_outcomes(report: Mapping[str, Any]) -> list[TrialOutcome]:
    """Return the trials, failures first, else in the order of the report."""
    return sorted(map(TrialOutcome.of, fields.rows(report.get("trials"))),
                  key=lambda trial: [*WORST_FIRST, ""].index(trial.outcome))


def problem_of(report: Mapping[str, Any]) -> str:
    """Return why an evaluation ended before its time, or has no outcome; '' where it has ended well."""
    told = fields.text(report.get("failure"))
    if told or Tally.of(fields.table(report.get("total"))).has_outcome:
        return told
    notes = [note for note in fields.words(report.get("notes")) if note.startswith(_REASONS)]
    return notes[-1].removeprefix(_REASONS[0]) if notes else ""


def _video(path: object) -> RelativePath | Literal[""]:
    try:
        video = names.relative_path(path)
    except names.BadName:
        return ""
    return video if video.startswith("videos/") and video.endswith(".mp4") else ""
