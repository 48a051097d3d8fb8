"""Story: what a Journal tells of a run, gathered: curves, checkpoints, where the time of a step goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rdtops.contract import fields
from rdtops.contract.journal import Event
from rdtops.contract.run import Checkpoint, best_of

Points = list[tuple[int, float]]  # step, value; steps ascend

PHASES = {"data": "data", "encode": "encode", "forward": "forward", "backward": "backward", "optimiser": "optimiser",
          "save": "checkpoint", "evaluation": "held-out"}  # as the Journal calls them -> as people do
SPLIT_OVER = 20  # step events


@dataclass
class Story:
    """Grows by `tell`. What a resumed run does again replaces what it did before."""

    loss: Points = field(default_factory=list)
    heldout: Points = field(default_factory=list)
    speed: Points = field(default_factory=list)  # samples/s
    learning_rate: Points = field(default_factory=list)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)  # that are there still
    others: list[Event] = field(default_factory=list)  # every event but steps and trials
    steps: list[Event] = field(default_factory=list)  # the last ones
    started: Event | None = None

    @classmethod
    def of(cls, events: Iterable[Event]) -> Story:
        story = cls()
        for event in events:
            story.tell(event)
        return story

    def tell(self, event: Event) -> None:
        """A line that is JSON, but not what the trainer writes, tells nothing."""
        try:
            self._tell(event)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return

    def _tell(self, event: Event) -> None:
        data = event.data
        if event.kind == "step":
            step = int(data["step"])
            self.loss.append((step, float(data["loss"])))
            for curve, name in ((self.speed, "samples_per_s"), (self.learning_rate, "learning_rate")):
                if data.get(name) is not None:
                    curve.append((step, float(data[name])))
            self.steps = [*self.steps[-SPLIT_OVER + 1:], event]
            return
        if event.kind == "trial":
            return
        self.others.append(event)
        if event.kind == "started":
            self.started = event
            self._forget_after(int(data.get("resumed_from_step") or 0))
        elif event.kind == "heldout":
            self.heldout.append((int(data["step"]), float(data["loss"])))
        elif event.kind == "checkpoint":
            heldout = data.get("heldout_loss")
            self.checkpoints[str(data["name"])] = Checkpoint(
                int(data["step"]), str(data["name"]), "", int(data["size_bytes"]), str(data["digest"]),
                None if heldout is None else float(heldout))
        elif event.kind == "checkpoint_deleted":
            self.checkpoints.pop(str(data["name"]), None)

    @property
    def split(self) -> dict[str, float]:
        """Seconds of a step by what they are spent on, means over the last steps; `other` is what no phase has."""
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
    def best(self) -> Checkpoint | None:
        return best_of(self.checkpoints.values())

    @property
    def latest(self) -> Checkpoint | None:
        return max(self.checkpoints.values(), key=lambda c: c.step, default=None)

    def _forget_after(self, step: int) -> None:
        for curve in (self.loss, self.heldout, self.speed, self.learning_rate):
            curve[:] = [point for point in curve if point[0] <= step]


def smoothed(points: Points) -> Points:
    """A running mean over a twentieth of the points."""
    window = max(1, len(points) // 20)
    total, means = 0.0, []
    for number, (step, value) in enumerate(points):
        total += value - (points[number - window][1] if number >= window else 0.0)
        means.append((step, total / min(number + 1, window)))
    return means


def _mean(events: list[Event], name: str) -> float:
    values = [value for e in events if (value := fields.number(e.data.get(name))) is not None]
    return sum(values) / len(values) if values else 0.0
