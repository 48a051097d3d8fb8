"""Charts: the positions of lines and dots, which templates/chart.html draws as SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rdtops.contract.tally import Tally
from rdtops.hostlib import fields
from rdtops.report.templates import TEMPLATES
from rdtops.views.scale import Scale

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 10, 34
MOST_POINTS = 1200  # of a curve: more than pixels
LARGEST_STEP, LARGEST_VALUE = 1e15, 1e100  # limits of what is drawn: beyond them differences lose all digits
SHARES = (0, 0.25, 0.5, 0.75, 1)


@dataclass(frozen=True)
class ChartLine:
    name: str
    points: Sequence[tuple[float, float]]
    css_class: str
    dots: bool = False


def curves(lines: Sequence[ChartLine], *, marks: Sequence[tuple[float, str]] = (), unit: str = "") -> Markup:
    """Draw curves; `marks` are vertical lines at a step, with a label. Return '' when there is nothing to draw."""
    chart = _chart(lines, marks, unit)
    return _drawn("curves", chart) if chart else Markup("")


def picture(lines: Sequence[ChartLine], title: str, *, marks: Sequence[tuple[float, str]] = (), unit: str = "") -> str:
    """Return the same as a complete SVG file with a title; without data it says so."""
    return TEMPLATES.get_template("curve.svg").render(title=title, chart=_chart(lines, marks, unit))


def _chart(lines: Sequence[ChartLine], marks: Sequence[tuple[float, str]], unit: str) -> dict[str, Any]:
    drawn = [ChartLine(c.name, [p for p in map(_drawable, c.points) if p], c.css_class, c.dots) for c in lines]
    drawn = [c for c in drawn if c.points]
    if not drawn:
        return {}
    axes = _Axes(Scale.of([c.points for c in drawn]))
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM,
        "value_ticks": _value_ticks(axes), "step_ticks": _step_ticks(axes),
        "marks": [{"x": f"{axes.x(step):.1f}", "words": words} for step, words in marks if abs(step) <= LARGEST_STEP],
        "curves": [_curve(axes, curve) for curve in drawn],
        "unit": unit + (", logarithmic" if axes.scale.logarithmic else "")}


def intervals(tallies: Sequence[Tally]) -> Markup:
    """Draw each rate as a dot and its 95 % interval as a line, as fractions of 1. Return '' when none has a rate."""
    rated = [(t, t.rate, t.interval) for t in tallies if t.rate is not None and t.interval is not None]
    rows = [{"y": 18 + 26 * number, "name": tally.language[:46], "rate_x": _at(rate), "low_x": _at(low),
             "high_x": _at(high), "words": f"{tally.rate_words}, {tally.interval_words}"}
            for number, (tally, rate, (low, high)) in enumerate(rated)]
    height = 26 * len(rows) + 24
    ticks = [{"x": _at(share), "y": height - 6, "words": f"{100 * share:.0f} %"} for share in SHARES]
    return _drawn("intervals", {"width": WIDTH, "height": height, "ticks": ticks, "rows": rows}) if rows else Markup("")


def _drawn(macro: str, chart: dict[str, Any]) -> Markup:
    drawn: Markup = getattr(TEMPLATES.get_template("chart.html").module, macro)(chart)
    return drawn


def _at(share: float) -> str:
    return f"{300 + min(max(share, 0.0), 1.0) * (WIDTH - 320):.1f}"


def _drawable(point: tuple[float, float]) -> tuple[float, float] | None:
    x, y = map(fields.number, point)
    if x is None or y is None or abs(x) > LARGEST_STEP or abs(y) > LARGEST_VALUE:
        return None
    return (x, y if abs(y) > 1 / LARGEST_VALUE else 0.0)


@dataclass(frozen=True)
class _Axes:
    """The scale in the units of the drawing."""

    scale: Scale

    def x(self, step: float) -> float:
        return LEFT + self.scale.x(step) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.scale.y(value) * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        if not self.scale.logarithmic:
            size = _round_step((self.scale.high - self.scale.low) / 4)
            first = math.ceil(self.scale.low / size)
            return [n * size for n in range(first, math.floor(self.scale.high / size) + 1)]
        powers = range(math.floor(math.log10(self.scale.low)), math.ceil(math.log10(self.scale.high)) + 1)
        factors = (1,) if len(powers) > 4 else (1, 2, 5)
        found = [factor * 10.0 ** power for power in powers for factor in factors]
        return [value for value in found if self.scale.low <= value <= self.scale.high]


def _round_step(size: float) -> float:
    """Return 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if size <= factor * power * 1.0001)


def _value_ticks(axes: _Axes) -> list[dict[str, Any]]:
    lines = [(value, f"{axes.y(value):.1f}") for value in axes.ticks()]
    return [{"x": LEFT - 8, "line_y": y, "y": f"{float(y) + 4:.1f}", "words": f"{value:.4g}"} for value, y in lines]


def _step_ticks(axes: _Axes) -> list[dict[str, Any]]:
    size = _round_step((axes.scale.last - axes.scale.first) / 6)
    numbers = range(math.ceil(axes.scale.first / size), math.floor(axes.scale.last / size) + 1)
    return [*({"x": f"{axes.x(number * size):.1f}", "y": HEIGHT - 14, "words": f"{number * size:g}"}
              for number in numbers), {"x": (LEFT + WIDTH - RIGHT) / 2, "y": HEIGHT - 1, "words": "step"}]


def _curve(axes: _Axes, line: ChartLine) -> dict[str, Any]:
    points = [(f"{axes.x(x):.1f}", f"{axes.y(y):.1f}") for x, y in _fewer(line.points)]
    return {"name": line.name, "css_class": line.css_class, "points": " ".join(map(",".join, points)),
            "dots": points if line.dots else []}


def _fewer(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return means of neighbouring points when there are more than MOST_POINTS."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i:i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
