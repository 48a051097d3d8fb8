"""Metrics: what the dashboard draws of a run, over steps or over time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rdtops.runs.story import Points, Story, smoothed
from rdtops.ui.dashboard.plot import Curve, value_words

RAW, MEAN, HELDOUT, SECOND = "dim", "cyan", "green", "magenta"  # styles: readable on a dark and on a light terminal


@dataclass(frozen=True)
class Metric:
    """A number of each step. `dips`: low values are the remarkable ones. `noisy`: drawn with its mean."""

    key: str
    name: str
    points: Callable[[Story], Points]
    words: Callable[[float], str] = value_words
    noisy: bool = False
    dips: bool = False

    def latest(self, story: Story) -> str:
        """Return the newest value, '' where there is none."""
        points = self.points(story)
        return self.words(points[-1][1]) if points else ""


LOSS = Metric("l", "loss", lambda story: story.loss, noisy=True)
VALIDATION = Metric("v", "validation loss", lambda story: story.heldout)
METRICS = (
    LOSS,
    VALIDATION,
    Metric("r", "learning rate", lambda story: story.learning_rate, "{:.1e}".format),
    Metric("g", "gradient norm", lambda story: story.grad_norm, "{:.3f}".format, noisy=True),
    Metric("s", "samples/s", lambda story: story.speed, "{:.1f}".format, noisy=True, dips=True))


def curves(metric: Metric, story: Story, second: Story | None, *, by_time: bool) -> list[Curve]:
    """Return the curves of a metric: of a run, and of a second one that is laid over it. The loss comes with the
    validation loss."""
    def over(points: Points, of: Story) -> Sequence[tuple[float, float]]:
        return over_time(points, of) if by_time else points

    points = metric.points(story)
    found = [Curve("step", over(points, story), RAW)] if metric.noisy else []
    found.append(Curve("mean" if metric.noisy else metric.name, over(_main(metric, points), story), MEAN))
    if metric is LOSS:
        found.append(Curve("validation", over(story.heldout, story), HELDOUT, marks=True))
    if second:
        found.append(Curve("second", over(_main(metric, metric.points(second)), second), SECOND, dashed=True))
    return [curve for curve in found if curve.points]


def resumes(story: Story, *, by_time: bool) -> list[float]:
    """Return where the run was resumed from a checkpoint: the steps, or the seconds since its launch."""
    events = [e for e in story.others if e.kind == "started" and e.data.get("resumed_from_step")]
    return [e.time_s - story.first_s if by_time else e.data["resumed_from_step"] for e in events]


def over_time(points: Points, story: Story) -> list[tuple[float, float]]:
    """Return the points over the seconds since the launch of the run. The time of a step in between is interpolated."""
    times, at, moved = story.times, 0, []
    for step, value in points if times else ():
        while at < len(times) - 1 and times[at][0] < step:
            at += 1
        (step_0, time_0), (step_1, time_1) = times[max(0, at - 1)], times[at]
        share = min(1.0, max(0.0, (step - step_0) / (step_1 - step_0))) if step_1 > step_0 else 1.0
        moved.append((time_0 + share * (time_1 - time_0) - story.first_s, value))
    return moved


def _main(metric: Metric, points: Points) -> Points:
    return smoothed(points) if metric.noisy else points
