"""Charts as inline SVG: they take the page's colours, so they follow its light and its dark. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rdtops.ops.scale import Scale

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 10, 34
MOST_POINTS = 1200  # of a curve: more than there are pixels


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]
    css_class: str
    dots: bool = False


def curves(lines: Sequence[Line], *, marks: Sequence[tuple[float, str]] = (), unit: str = "") -> str:
    """`marks`: vertical lines at a step, with their words. '' when there is nothing to draw."""
    drawn = [Line(c.name, [p for p in c.points if math.isfinite(p[1])], c.css_class, c.dots) for c in lines]
    drawn = [c for c in drawn if c.points]
    if not drawn:
        return ""
    axes = _Axes(Scale.of([c.points for c in drawn]))
    parts = [*_grid(axes), *(_mark(axes, step, words) for step, words in marks), *(_curve(axes, c) for c in drawn)]
    legend = "".join(f'<span class="{c.css_class}"><i></i>{escape(c.name)}</span>' for c in drawn if c.name)
    return (f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(drawn[0].name)}">'
            f'{"".join(parts)}</svg><figcaption>{legend}<em>{escape(unit)}'
            f'{", logarithmic" if axes.scale.logarithmic else ""}</em></figcaption></figure>')


def intervals(rows: Sequence[tuple[str, float, tuple[float, float], str]]) -> str:
    """A bar for each (name, rate, interval, words): the rate as a dot, its 95 % interval as a line; shares of 1."""
    height = 26 * len(rows) + 24
    parts = [f'<line class="grid" x1="{_at(x)}" x2="{_at(x)}" y1="4" y2="{height - 20}"/>'
             f'<text class="tick" x="{_at(x)}" y="{height - 6}" text-anchor="middle">{100 * x:.0f} %</text>'
             for x in (0, 0.25, 0.5, 0.75, 1)]
    for number, (name, rate, (low, high), words) in enumerate(rows):
        y = 18 + 26 * number
        parts.append(f'<text class="name" x="0" y="{y + 4}">{escape(name[:46])}</text>'
                     f'<line class="interval" x1="{_at(low)}" x2="{_at(high)}" y1="{y}" y2="{y}"/>'
                     f'<circle class="rate" cx="{_at(rate)}" cy="{y}" r="5"><title>{escape(words)}</title></circle>')
    return f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg></figure>'


def _at(share: float) -> str:
    return f"{300 + share * (WIDTH - 320):.1f}"


@dataclass(frozen=True)
class _Axes:
    """The scale on the drawing, in its units."""

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
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if size <= factor * power * 1.0001)


def _grid(axes: _Axes) -> list[str]:
    parts = []
    for value in axes.ticks():
        y = f"{axes.y(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
                     f'<text class="tick" x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    size = _round_step((axes.scale.last - axes.scale.first) / 6)
    for number in range(math.ceil(axes.scale.first / size), math.floor(axes.scale.last / size) + 1):
        x = f"{axes.x(number * size):.1f}"
        parts.append(f'<text class="tick" x="{x}" y="{HEIGHT - 14}" text-anchor="middle">{number * size:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, f'<text class="tick" x="{middle}" y="{HEIGHT - 1}" text-anchor="middle">step</text>']


def _mark(axes: _Axes, step: float, words: str) -> str:
    x = f"{axes.x(step):.1f}"
    return (f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
            f"<title>{escape(words)}</title></line>")


def _curve(axes: _Axes, line: Line) -> str:
    points = [(axes.x(x), axes.y(y)) for x, y in _fewer(line.points)]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points) if line.dots else ""
    return f'<g class="{line.css_class}"><polyline points="{drawn}"/>{dots}</g>'


def _fewer(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbours, where there are more than can be seen."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i:i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
