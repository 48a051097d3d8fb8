"""Story: the events of a Journal as curves, checkpoints and the time of a step by phase. Pure, and of bounded size
however many events there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rdtops.contract.journal import Event
from rdtops.contract.run import Checkpoint, best_of
from rdtops.hostlib import fields, names

Points = list[tuple[int, float]]  # step, value; steps ascend

PHASES = {"data": "data", "encode": "encode", "forward": "forward", "backward": "backward", "optimiser": "optimiser",
          "save": "checkpoint", "evaluation": "validation"}  # in the Journal -> for people
SPLIT_OVER = 20  # step events
POINTS = 20_000  # of a curve; of twice as many the lowest and highest of each four are kept
EVENTS = 5_000  # and checkpoints; at twice as many the older ones are dropped


@dataclass
class Story:
    """Grows by `add`. Steps that a resumed run repeats replace the earlier ones."""

    loss: Points = field(default_factory=list)
    heldout: Points = field(default_factory=list)
    speed: Points = field(default_factory=list)  # samples/s
    learning_rate: Points = field(default_factory=list)
    grad_norm: Points = field(default_factory=list)
    memory: Points = field(default_factory=list)  # MiB, the peak of rank 0: of its GPU, else resident
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)  # that still exist
    others: list[Event] = field(default_factory=list)  # every event but steps and trials; the newest ones
    steps: list[Event] = field(default_factory=list)  # the last ones
    times: Points = field(default_factory=list)  # Unix time of the host at each step
    started: Event | None = None
    first_s: float = 0.0  # Unix time of the training's first event, and of the last one
    last_s: float = 0.0

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> Story:
        story = cls()
        for event in events:
            story.add(event)
        return story

    def add(self, event: Event) -> None:
        """Add an event. Values that are missing or invalid are left out."""
        if event.kind == "trial":
            return
        data, step = event.data, event.data.get("step")
        if event.time_s:
            self.first_s, self.last_s = self.first_s or event.time_s, max(self.last_s, event.time_s)
            _add(self.times, step if event.kind == "step" else None, event.time_s)
        if event.kind == "step":
            for curve, name in ((self.loss, "loss"), (self.speed, "samples_per_s"),
                                (self.learning_rate, "learning_rate"), (self.grad_norm, "grad_norm"),
                                (self.memory, "memory_mib")):
                _add(curve, step, data.get(name))
            self.steps = [*self.steps[-SPLIT_OVER + 1:], event]
            return
        self.others.append(event)
        del self.others[:-EVENTS if len(self.others) > 2 * EVENTS else 0]
        if event.kind == "started":
            self.started = event
            self._forget_after(data.get("resumed_from_step") or 0)
        elif event.kind == "heldout":
            _add(self.heldout, step, data.get("loss"))
        elif event.kind == "checkpoint":
            self._add_checkpoint(data)
        elif event.kind == "checkpoint_deleted":
            self.checkpoints.pop(fields.text(data.get("name")), None)

    def _add_checkpoint(self, data: dict[str, Any]) -> None:
        with contextlib.suppress(names.BadName):
            saved = Checkpoint.told(data)
            self.checkpoints[saved.name] = saved
            if len(self.checkpoints) > EVENTS:
                self.checkpoints.pop(next(iter(self.checkpoints)))

    @property
    def split(self) -> dict[str, float]:
        """Return the seconds of a step by phase, means over the last steps; `other` is the rest."""
        if not self.steps:
            return {}
        means = {word: _mean(self.steps, f"{name}_s") for name, word in PHASES.items()}
        total = self.step_s
        means["other"] = max(0.0, total - sum(means.values()))
        return means if total else {}

    @property
    def step_s(self) -> float:
        """Seconds of a step, the mean over the last ones."""
        return _mean(self.steps, "step_s")

    @property
    def useful_flops(self) -> tuple[float | None, float | None]:
        """Return the newest useful TFLOP/s of a GPU, and its MFU; None for what is not known."""
        data = self.steps[-1].data if self.steps else {}
        return fields.number(data.get("tflop_per_s")), fields.number(data.get("mfu"))

    @property
    def best(self) -> Checkpoint | None:
        return best_of(self.checkpoints.values())

    @property
    def latest(self) -> Checkpoint | None:
        return max(self.checkpoints.values(), key=lambda c: c.step, default=None)

    def _forget_after(self, step: int) -> None:
        for curve in (self.loss, self.heldout, self.speed, self.learning_rate, self.grad_norm, self.memory):
            curve[:] = [point for point in curve if point[0] <= step]
        self.times[:] = [point for point in self.times if point[0] <= step]


def _add(points: Points, step: object, value: object) -> None:
    if isinstance(step, int) and isinstance(value, (int, float)):
        points.append((step, float(value)))
        if len(points) > 2 * POINTS:
            points[:] = _halved(points)


def _halved(points: Points) -> Points:
    """Return half of the points, with every peak: the lowest and the highest of each four, and the last one."""
    kept = []
    for start in range(0, len(points) - 1, 4):
        four = sorted(points[start:min(start + 4, len(points) - 1)], key=lambda point: point[1])
        kept += sorted({four[0], four[-1]})
    return [*kept, points[-1]]


def smoothed(points: Points) -> Points:
    """Return the moving average over a twentieth of the points."""
    window = max(1, len(points) // 20)
    total, means = 0.0, []
    for number, (step, value) in enumerate(points):
        total += value - (points[number - window][1] if number >= window else 0.0)
        means.append((step, total / min(number + 1, window)))
    return means


def _mean(events: list[Event], name: str) -> float:
    values = [value for e in events if (value := fields.number(e.data.get(name))) is not None]
    return sum(values) / len(values) if values else 0.0
