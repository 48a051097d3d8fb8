"""Charts: the places of lines and dots, which templates/chart.html draws as SVG. Pure.

Places are percentages of the drawing, and of a polyline thousandths: a chart is as wide as the page, its letters keep
their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rdtops.hostlib import fields
from rdtops.report.templates import TEMPLATES
from rdtops.views.scale import Scale

MOST_POINTS = 1200  # of a curve: more than pixels
LARGEST_STEP, LARGEST_VALUE = 1e15, 1e100  # limits of what is drawn: beyond them differences lose all digits
LABEL_SHARE = 0.22  # of the width, which a mark's label takes on a phone


@dataclass(frozen=True)
class ChartLine:
    name: str
    points: Sequence[tuple[float, float]]
    css_class: str
    dots: bool = False


@dataclass(frozen=True)
class ChartMark:
    """A vertical line. `label` is written beside it, where there is room; `words` are shown on demand."""

    step: float
    words: str
    label: str = ""


def curves(lines: Sequence[ChartLine], *, marks: Sequence[ChartMark] = (), unit: str = "", by: str = "step") -> Markup:
    """Draw curves; `marks` are vertical lines. Return '' when there is nothing to draw."""
    chart = _chart(lines, marks, unit, by)
    if not chart:
        return Markup("")
    drawn: Markup = getattr(TEMPLATES.get_template("chart.html").module, "curves")(chart)  # noqa: B009  # a macro
    return drawn


def picture(lines: Sequence[ChartLine], title: str, *, marks: Sequence[ChartMark] = (), unit: str = "") -> str:
    """Return the same as a complete SVG file with a title; without data it says so."""
    return TEMPLATES.get_template("curve.svg").render(title=title, chart=_chart(lines, marks, unit, "step"))


def _chart(lines: Sequence[ChartLine], marks: Sequence[ChartMark], unit: str, by: str) -> dict[str, Any]:
    drawn = [ChartLine(c.name, [p for p in map(_drawable, c.points) if p], c.css_class, c.dots) for c in lines]
    drawn = [c for c in drawn if c.points]
    if not drawn:
        return {}
    scale = Scale.of([c.points for c in drawn])
    return {
        "value_ticks": [{"at": _percent(1 - scale.y(value)), "words": f"{value:.4g}"} for value in _values(scale)],
        "step_ticks": list(_step_ticks(scale)), "marks": list(_marks(scale, marks)),
        "curves": [_curve(scale, curve) for curve in drawn],
        "unit": f"{unit}{', logarithmic,' if scale.logarithmic else ''} by {by}"}


def _drawable(point: tuple[float, float]) -> tuple[float, float] | None:
    x, y = map(fields.number, point)
    if x is None or y is None or abs(x) > LARGEST_STEP or abs(y) > LARGEST_VALUE:
        return None
    return (x, y if abs(y) > 1 / LARGEST_VALUE else 0.0)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _values(scale: Scale) -> list[float]:
    """Return the values at which the axis has a line."""
    if not scale.logarithmic:
        size = _round_step((scale.high - scale.low) / 4)
        return [n * size for n in range(math.ceil(scale.low / size), math.floor(scale.high / size) + 1)]
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    found = [factor * 10.0 ** power for power in powers for factor in factors]
    return [value for value in found if scale.low <= value <= scale.high]


def _round_step(size: float) -> float:
    """Return 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if size <= factor * power * 1.0001)


def _step_ticks(scale: Scale) -> Iterator[dict[str, str]]:
    size = _round_step((scale.last - scale.first) / 5)
    for number in range(math.ceil(scale.first / size), math.floor(scale.last / size) + 1):
        yield {"at": _percent(scale.x(number * size)), "words": _step_words(number * size)}


def _step_words(step: float) -> str:
    """Return a step in few letters.

    >>> _step_words(500), _step_words(12_500), _step_words(200_000), _step_words(1_500_000)
    ('500', '12.5k', '200k', '1.5M')
    """
    unit, letter = (1e6, "M") if abs(step) >= 1e6 else (1e3, "k") if abs(step) >= 1e4 else (1, "")
    return f"{step / unit:g}{letter}"


def _marks(scale: Scale, marks: Sequence[ChartMark]) -> Iterator[dict[str, Any]]:
    """Yield the lines by step; a label only where the one before it has ended."""
    free = 0.0
    for mark in sorted((m for m in marks if abs(m.step) <= LARGEST_STEP), key=lambda m: m.step):
        at = min(max(scale.x(mark.step), 0.0), 1.0)
        is_last = at > 1 - LABEL_SHARE
        begin = at - LABEL_SHARE if is_last else at
        has_room = bool(mark.label) and begin >= free
        free = (at if is_last else at + LABEL_SHARE) if has_room else free
        yield {"at": _percent(at), "words": mark.words, "label": mark.label if has_room else "",
               "css_class": "break" if mark.label else "", "anchor": "end" if is_last else "start",
               "dx": -4 if is_last else 4}


def _curve(scale: Scale, line: ChartLine) -> dict[str, Any]:
    points = [(scale.x(x), 1 - scale.y(y)) for x, y in _fewer(line.points)]
    is_dotted = line.dots or len(points) == 1
    return {"name": line.name, "css_class": line.css_class,
            "points": " ".join(f"{1000 * x:.1f},{1000 * y:.1f}" for x, y in points),
            "dots": [(_percent(x), _percent(y)) for x, y in points] if is_dotted else []}


def _fewer(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return means of neighbouring points when there are more than MOST_POINTS."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i:i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
