"""Breaks: where a training was stopped, resumed or restarted, or has failed, on the axis of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.contract.journal import Event
from rdtops.hostlib import fields
from rdtops.runs.story import Story
from rdtops.views.words import duration

LISTED = 12  # of them as sentences; the events have all
_ENDINGS = ("stopped", "failed", "attempt_ended")
SHORT_PAUSE_S = 60.0  # a shorter one is not told


@dataclass(frozen=True)
class Break:
    step: int
    label: str  # stopped, failed, resumed or restarted
    words: str


def breaks(story: Story) -> list[Break]:
    """Return the breaks of a training, in time."""
    return list(_breaks(story.others))


def sentences(story: Story) -> list[str]:
    found = breaks(story)
    hidden = len(found) - LISTED
    return [*(f"{one.label} {one.words}" for one in found[:LISTED]),
            *([f"and {hidden} more, in the events"] if hidden > 0 else [])]


def _breaks(events: list[Event]) -> Iterator[Break]:
    before: Event | None = None  # the newest ending
    has_started = False
    for event in events:
        if event.kind in ("stopped", "failed"):
            yield Break(_step(event.data), event.kind, _end_words(event))
        if event.kind in _ENDINGS:
            before = event
        if event.kind == "started":
            step = fields.whole(event.data.get("resumed_from_step")) or 0
            if has_started or step:
                yield _start(step, before, event)
            has_started, before = True, None


def _start(step: int, before: Event | None, event: Event) -> Break:
    is_restart = before is not None and before.kind == "attempt_ended"
    words = f"at step {step}" if step else "from the start"
    if before and event.time_s - before.time_s > SHORT_PAUSE_S:
        words += f" after {duration(event.time_s - before.time_s)}"
    if is_restart:
        assert before
        words += f": {fields.text(before.data.get('summary')) or fields.text(before.data.get('cause')) or '?'}"
    return Break(step, "restarted" if is_restart else "resumed", words)


def _end_words(event: Event) -> str:
    at = f"at step {_step(event.data)}"
    said = event.data.get("signal") if event.kind == "stopped" else event.data.get("error")
    first = fields.text(said).partition("\n")[0]
    return f"{at} on {first}" if event.kind == "stopped" and first else f"{at}: {first[:200]}" if first else at


def _step(data: Mapping[str, Any]) -> int:
    return fields.whole(data.get("step")) or 0
