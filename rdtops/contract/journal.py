"""Journal: what happened in a run, one JSON object a line, append only.

The trainer writes it on the host; everything the laptop knows about a run is derived from it. A line is written with
one write(2) and is complete with its newline: a torn last line is unfinished, never wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdtops.hostlib import fields, files
from rdtops.hostlib.names import quoted

# kind of event: what its data holds (units in the names)
KINDS = {
    "scheduled": "launcher, job, restarts (how many times it was requeued), nodes: a job of a cluster begins",
    "requeued": "launcher, job, restarts: at its time limit it saved, and waits in the queue again",
    "launched": "launcher, pid, boot_id: written by the launch script",
    "attempt": "attempt, log_offset, log_line, oom_kills, batch_size_per_process, gradient_accumulation_steps, "
               "gradient_checkpointing (as requested): the supervisor starts the trainer for the attempt-th time since "
               "the launch; log_offset and log_line: where train.log then ends",
    "attempt_ended": "attempt, exit_code (-9: killed by signal 9; null: unknown), cause, summary, evidence, "
                     "next, oom_kills, restart_in_s (null: it was the last)",
    "silent": "attempt, silent_s, limit_s, ranks (as of stuck): nothing was written for long before the first step; "
              "their stacks are in train.log",
    "heard": "attempt: after a `silent`, something was written again",
    "stuck": "attempt, silent_s, limit_s, ranks (the state of each in /proc): written before they are killed",
    "started": "world_size, max_steps, device, parameters, resumed_from_step (0 = from the start), heldout_samples, "
               "instructions (of the demonstrations, at most 20), gradient_checkpointing (as decided)",
    "step": "step, loss, learning_rate, grad_norm, samples, samples_per_s, step_s, data_s, encode_s, forward_s, "
            "backward_s, optimiser_s, save_s, evaluation_s, tflop_per_s, mfu, memory_mib, memory_reserved_mib, eta_s: "
            "means over the steps since the last such event; times are parts of step_s, of rank 0; samples_per_s, "
            "tflop_per_s and mfu leave out save_s and evaluation_s; tflop_per_s is the useful arithmetic of rank 0, "
            "mfu its share of what its GPU can do (null: not known, or a CPU); eta_s is estimated from all steps so "
            "far but the first; memory_mib is the peak (of tensors on the GPU, else resident), memory_reserved_mib "
            "that of what torch holds there (null on a CPU)",
    "sample": "step, action_mse: predicted against recorded actions, in the units of the codec",
    "heldout": "step, loss: validation loss, of the EMA weights on samples that are never trained on",
    "checkpoint": "step, name, size_bytes, digest, heldout_loss: the digest is that of its manifest; heldout_loss "
                  "is the validation loss, null without held-out samples",
    "checkpoint_failed": "step, error, remedy: it was dropped; earlier ones are unchanged",
    "checkpoint_deleted": "step, name: no retention setting keeps it",
    "stop_requested": "by: written by `inv stop` before it signals the processes",
    "stopped": "step, signal: saved and ended, on that signal",
    "finished": "step, loss",
    "failed": "step, error, remedy, type (of the error), rank, training (false: before the first step)",
    "warning": "message: with `accepted` (part of assets.json -> its new digest) where a resume found other files, and "
               "was told to accept them",
    "eval_started": "name, checkpoint, benchmark, tasks, trials, done_before: an evaluation of this run",
    "trial": "name, task, trial, outcome (success, failure, error), steps, error",
    "eval_finished": "name, report (relative to the run folder), digest (its MD5), checkpoint, benchmark, successes, "
                     "trials, errors",
    "eval_failed": "name, error, remedy",
}


# Fields used in computations, whatever the kind of event: a line where one has another type is not an event.
_WHOLE = ("step", "size_bytes", "attempt", "log_offset", "log_line", "oom_kills", "world_size", "max_steps",
          "parameters", "resumed_from_step", "exit_code", "batch_size_per_process", "gradient_accumulation_steps",
          "done_before", "successes", "trials", "errors", "steps", "trial")
_NUMBERS = ("loss", "learning_rate", "grad_norm", "samples_per_s", "step_s", "data_s", "encode_s", "forward_s",
            "backward_s", "optimiser_s", "save_s", "evaluation_s", "tflop_per_s", "mfu", "memory_mib",
            "memory_reserved_mib", "eta_s", "heldout_loss", "action_mse", "silent_s", "limit_s", "restart_in_s")
_READERS: dict[str, Callable[[object], object]] = {
    **dict.fromkeys(_WHOLE, fields.whole), **dict.fromkeys(_NUMBERS, fields.number),
    "ranks": lambda value: fields.rows(value) if isinstance(value, list) else None,
    "evidence": lambda value: fields.words(value) if isinstance(value, list) else None}
LATEST_S = 1 << 37  # in the year 6325: a later time is invalid

LINE_BYTES = files.LINE_BYTES  # a longer line is not an event
_STEP = b'{"kind": "step"'


@dataclass(frozen=True)
class Event:
    kind: str
    time_s: float  # Unix time on the host
    data: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        return json.dumps({"kind": self.kind, "time_s": round(self.time_s, 3), **self.data}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Event:
        """Parse a line. Raises ValueError when it is not an event. A field that is not null has its type; a number that
        is not finite is null."""
        data = fields.loads(line)
        if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
            raise ValueError(f"not an event: {quoted(line)}")
        kind, time_s = data.pop("kind"), fields.number(data.pop("time_s", 0.0))
        if time_s is None or not 0 <= time_s <= LATEST_S:
            raise ValueError(f"an event without a time: {quoted(line)}")
        return cls(kind, float(time_s), {name: _read(name, value) for name, value in data.items()})


def _read(name: str, value: object) -> object:
    reader = _READERS.get(name)
    if reader is None or value is None or value != value or value in (float("inf"), float("-inf")):
        return value if reader is None else None
    found = reader(value)
    if found is None:
        raise ValueError(f"the field {name} of an event is invalid: {quoted(value)}")
    return found


class Journal:
    """A file of events. Several processes may append; each line is written whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, kind: str, **data: Any) -> Event:
        event = Event(kind, time.time(), data)
        self.write(event)
        return event

    def write(self, event: Event) -> None:
        """Append an event. Raises OSError, for a full disk too; then it may be written again."""
        assert event.kind in KINDS, event.kind
        # a step may be lost when the machine fails
        files.append_line(self.path, event.to_line(), flush=event.kind != "step")

    def read(self) -> list[Event]:
        """Return all of `events`."""
        return list(self.events())

    def events(self, steps: int = 0) -> Iterator[Event]:
        """Yield the complete events, in bounded memory however long the file is; none where the file is missing.
        `steps`: of the step events about this many, spread evenly, with the last one."""
        every = 1
        if steps:
            count = sum(line.startswith(_STEP) for line in self._lines())
            every, number = max(1, -(-count // steps)), -count
        for line in self._lines():
            if steps and line.startswith(_STEP):
                number += 1
                if number % every:
                    continue
            if len(line) > LINE_BYTES or line.endswith(b"\n"):
                yield from _parsed(line)

    def _lines(self) -> Iterator[bytes]:
        try:
            yield from files.lines_of(self.path, LINE_BYTES + 1)
        except OSError:
            return


def parse(content: bytes) -> tuple[list[Event], int]:
    """Return the complete events of a part of a journal, and how many bytes they took. A damaged line in the middle
    becomes a warning event, so that a gap is never hidden."""
    end = content.rfind(b"\n") + 1
    return [event for line in content[:end].split(b"\n") for event in _parsed(line)], end


def _parsed(line: bytes) -> Iterator[Event]:
    """Yield the event of a line, or a warning that it is not an event; nothing for an empty line."""
    if len(line) > LINE_BYTES:
        yield Event("warning", 0.0, {"message": f"journal line longer than {LINE_BYTES} bytes: {quoted(line[:80])}"})
    elif line.strip():
        try:
            yield Event.from_line(line.decode("utf-8", "replace"))
        except ValueError:
            yield Event("warning", 0.0, {"message": f"unreadable journal line: {line[:80]!r}"})
