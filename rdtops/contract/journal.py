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
    "scheduled": "launcher, job, restarts, nodes: a cluster's job begins, for the so-manieth time after its first",
    "requeued": "launcher, job, restarts: its time is over; it saved and waits in the queue again",
    "launched": "launcher, pid, boot_id: written by the launch script",
    "attempt": "attempt, log_offset, log_line, oom_kills, batch_size_per_process, gradient_accumulation_steps, "
               "gradient_checkpointing: the supervisor starts the trainer, for this number of times since the launch; "
               "where train.log then ends",
    "attempt_ended": "attempt, exit_code (-9: killed by signal 9; null: nobody saw it), cause, summary, evidence, "
                     "next, oom_kills, restart_in_s (null: it was the last)",
    "stuck": "attempt, silent_s, limit_s, ranks (what /proc says of each): written before they are killed",
    "started": "world_size, max_steps, device, parameters, resumed_from_step (0 = from the start), heldout_samples",
    "step": "step, loss, learning_rate, grad_norm, samples, samples_per_s, step_s, data_s, encode_s, forward_s, "
            "backward_s, optimiser_s, save_s, evaluation_s, memory_mib, eta_s: means over the steps since "
            "the last such event; times are parts of step_s, of rank 0; samples_per_s leaves out save_s and "
            "evaluation_s; eta_s goes by all steps so far but the first; memory is the most it ever used (GPU's or "
            "else resident)",
    "sample": "step, action_mse: predicted against recorded actions, in the units of the codec",
    "heldout": "step, loss: of the averaged weights on samples that are never trained on",
    "checkpoint": "step, name, size_bytes, digest, heldout_loss: the digest is its manifest's; without held-out "
                  "samples the loss is null",
    "checkpoint_failed": "step, error, remedy: it was dropped, the ones before it are as they were",
    "checkpoint_deleted": "step, name: no setting keeps it any longer",
    "stop_requested": "by: written by `inv stop` before it asks the processes",
    "stopped": "step, signal: saved and left, as the signal asked",
    "finished": "step, loss",
    "failed": "step, error, remedy, type (of the error), rank, training (false: before the first step)",
    "warning": "message",
    "eval_started": "name, checkpoint, benchmark, tasks, trials, done_before: an evaluation of this run",
    "trial": "name, task, trial, outcome (success, failure, error), steps, error",
    "eval_finished": "name, report (relative to the run folder), digest (its MD5), checkpoint, benchmark, successes, "
                     "trials, errors",
    "eval_failed": "name, error, remedy",
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
        event = Event(kind, time.time(), data)
        self.write(event)
        return event

    def write(self, event: Event) -> None:
        """Raises OSError, with a full disk too; then it may be written again."""
        assert event.kind in KINDS, event.kind
        append_line(self.path, event.to_line(), flush=event.kind != "step")  # a step may be lost with the machine

    def read(self) -> list[Event]:
        return parse(self.path.read_bytes())[0] if self.path.exists() else []


def append_line(path: Path, line: str, *, flush: bool = False) -> None:
    """In one write, on a line of its own whatever a full disk left before it. `flush`: it outlives the machine."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        content = (b"\n" if _is_torn(descriptor) else b"") + line.encode() + b"\n"
        written = os.write(descriptor, content)
        if written < len(content):
            _take_back(descriptor, content[:written])
            raise OSError(errno.ENOSPC, "No space left on device: it took only a part of a line", str(path))
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_back(descriptor: int, part: bytes) -> None:
    """Of a line that found no room, unless somebody has written behind it since."""
    size = os.fstat(descriptor).st_size
    if os.pread(descriptor, len(part), size - len(part)) == part:
        os.ftruncate(descriptor, size - len(part))


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
