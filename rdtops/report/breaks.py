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
_ENDINGS = ("stopped", "failed", "finished", "attempt_ended")
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
    has_started = is_launched = False
    for event in events:
        is_launched |= event.kind == "launched"
        if event.kind in ("stopped", "failed"):
            yield Break(_step(event.data), event.kind, _end_words(event))
        if event.kind in _ENDINGS:
            before = event
        if event.kind == "started":
            step = fields.whole(event.data.get("resumed_from_step")) or 0
            if has_started or step:
                yield _start(step, None if is_launched else _restart_of(before), before, event)
            has_started, is_launched, before = True, False, None


def _restart_of(ending: Event | None) -> Event | None:
    """Return the end of an attempt after which the supervisor has started another one; None for any other ending."""
    is_one = ending is not None and ending.kind == "attempt_ended" and ending.data.get("restart_in_s") is not None
    return ending if is_one else None


def _start(step: int, restart_of: Event | None, before: Event | None, event: Event) -> Break:
    words = f"at step {step}" if step else "from the start"
    if before and event.time_s - before.time_s > SHORT_PAUSE_S:
        words += f" after {duration(event.time_s - before.time_s)}"
    if restart_of:
        words += f": {fields.text(restart_of.data.get('summary')) or fields.text(restart_of.data.get('cause')) or '?'}"
    return Break(step, "restarted" if restart_of else "resumed", words)


def _end_words(event: Event) -> str:
    at = f"at step {_step(event.data)}"
    said = event.data.get("signal") if event.kind == "stopped" else event.data.get("error")
    first = fields.text(said).partition("\n")[0]
    return f"{at} on {first}" if event.kind == "stopped" and first else f"{at}: {first[:200]}" if first else at


def _step(data: Mapping[str, Any]) -> int:
    return fields.whole(data.get("step")) or 0
