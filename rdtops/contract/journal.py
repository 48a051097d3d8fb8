"""The Journal: what happened in a run, one JSON object a line, append only.

The trainer writes it on the host; everything the laptop knows about a run is derived from it. A line is written with
one write(2) and counts once its newline is there, so a torn last line is unfinished, never wrong.
"""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# kind of event: what its data holds (units in the names)
KINDS = {
    "launched": "launcher, pid, boot_id: written by the launch script",
    "started": "world_size, max_steps, device, parameters, resumed_from_step (0 = from the start)",
    "step": "step, loss, learning_rate, grad_norm, samples_per_s, step_s, data_s, eta_s, samples (learnt from so "
            "far): means over the steps since the last such event",
    "sample": "step, action_mse: predicted against recorded actions, in the units of the codec",
    "checkpoint": "step, name, size_bytes, digest (of its manifest)",
    "checkpoint_failed": "step, error",
    "stop_requested": "by: written by `inv stop` before it asks the processes",
    "finished": "step, loss",
    "failed": "step, error, remedy",
    "warning": "message",
}


@dataclass(frozen=True)
class Event:
    kind: str
    time_s: float  # Unix time on the host
    data: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        return json.dumps({"kind": self.kind, "time_s": round(self.time_s, 3), **self.data}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Event:
        """Raises ValueError when the line is not an event."""
        fields = json.loads(line)
        if not isinstance(fields, dict) or "kind" not in fields:
            raise ValueError(f"not an event: {line[:80]!r}")
        return cls(str(fields.pop("kind")), float(fields.pop("time_s", 0.0)), fields)


class Journal:
    """Appends events to one file. Several processes may append; each line arrives whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, kind: str, **data: Any) -> Event:
        assert kind in KINDS, kind
        event = Event(kind, time.time(), data)
        line = (event.to_line() + "\n").encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            line = (b"\n" if _is_torn(descriptor) else b"") + line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, "the journal took only a part of a line", str(self.path))
            if kind != "step":  # a step may be lost with the machine, a checkpoint may not
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return event

    def read(self) -> list[Event]:
        return parse(self.path.read_bytes())[0] if self.path.exists() else []


def _is_torn(descriptor: int) -> bool:
    """The file ends within a line, as a full disk or a killed machine leaves it."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def parse(content: bytes) -> tuple[list[Event], int]:
    """The complete events of a piece of a journal, and how many bytes they took. A damaged line in the middle is
    kept as a warning event so that nobody mistakes a gap for silence."""
    events: list[Event] = []
    end = content.rfind(b"\n") + 1
    for raw in content[:end].splitlines():
        if not raw.strip():
            continue
        try:
            events.append(Event.from_line(raw.decode()))
        except ValueError:
            events.append(Event("warning", 0.0, {"message": f"unreadable journal line: {raw[:80]!r}"}))
    return events, end
