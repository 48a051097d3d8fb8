"""Plot: curves in braille dots, two by four in a cell of the terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.text import Text

from rdtops.views.scale import Scale
from rdtops.views.words import duration

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # [column][row from above] of a cell
DASH_DOTS = 3  # of a dashed curve: drawn, then left out
LEVELS = "▁▂▃▄▅▆▇█"
LABEL_CELLS = 8
AXIS, RESUME = "dim", "┊"

Cells = list[list[tuple[int, str]]]  # rows of (dots, style)


@dataclass(frozen=True)
class Curve:
    """A curve. `points`: (x, value), x ascending. `marks`: drawn as single dots, not joined. `dashed`: to be told from
    another curve without colours."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    marks: bool = False
    dashed: bool = False


def plot(curves: Sequence[Curve], columns: int, rows: int, *, logarithmic: bool | None = None,
         resumes: Sequence[float] = (), by_time: bool = False) -> Text:
    """Draw curves with axes in that many cells, and a vertical line at each of `resumes`. No value is hidden: what
    falls on one column of dots is drawn from its lowest to its highest. `logarithmic` None: automatic. `by_time`: x
    are seconds, else steps."""
    drawn = [replace(c, points=[p for p in c.points if math.isfinite(p[1])]) for c in curves]
    drawn = [c for c in drawn if c.points]
    width, height = columns - LABEL_CELLS - 1, rows - 1
    if not drawn or width < 4 or height < 2:
        return Text("no step yet", style="dim")
    scale = Scale.of([c.points for c in drawn], logarithmic)
    cells: Cells = [[(0, "")] * width for _ in range(height)]
    for curve in drawn:
        _draw(cells, curve, scale)
    lines = {min(width - 1, int(scale.x(x) * width)) for x in resumes if scale.first < x < scale.last}
    return _with_axes(cells, scale, lines, by_time)


def sparkline(points: Sequence[tuple[float, float]], cells: int, *, dips: bool = False) -> str:
    """Draw a curve in one line of that many cells, each at its highest value, or with `dips` at its lowest."""
    points = [p for p in points if math.isfinite(p[1])]
    if not points or cells < 1:
        return ""
    scale = Scale.of([points])
    scale = replace(scale, low=min(value for _, value in points))
    if scale.high <= scale.low:
        return LEVELS[3] * cells
    worst = min if dips else max
    heights: dict[int, float] = {}
    for x, value in points:
        cell, height = min(cells - 1, int(scale.x(x) * cells)), scale.y(value)
        heights[cell] = worst(heights.get(cell, height), height)
    drawn, last = "", " "
    for cell in range(cells):
        last = LEVELS[round(heights[cell] * (len(LEVELS) - 1))] if cell in heights else last
        drawn += last
    return drawn


def value_words(value: float) -> str:
    """Return a value in at most LABEL_CELLS letters."""
    if not value:
        return "0"
    size = abs(value)
    return f"{value:.4f}" if 0.001 <= size < 10 else f"{value:.1f}" if 10 <= size < 100_000 else f"{value:.1e}"


def _draw(cells: Cells, curve: Curve, scale: Scale) -> None:
    wide, high = 2 * len(cells[0]), 4 * len(cells)
    before: tuple[int, int] | None = None
    count = 0
    for x, ys in _columns(curve, scale, wide, high):
        path = [(x, y) for y in (sorted(set(ys)) if curve.marks else range(min(ys), max(ys) + 1))]
        if before and not curve.marks:
            path = _line(before, (x, ys[0])) + path
        before = (x, ys[-1])
        for dot_x, dot_y in path:
            count += 1
            if curve.dashed and count // DASH_DOTS % 2:
                continue
            bits, _ = cells[dot_y // 4][dot_x // 2]
            cells[dot_y // 4][dot_x // 2] = (bits | DOTS[dot_x % 2][dot_y % 4], curve.style)


def _columns(curve: Curve, scale: Scale, wide: int, high: int) -> Iterator[tuple[int, list[int]]]:
    """Yield each column of dots with the dots of its points, in their order; those of many steps once."""
    at, ys = -1, [0]
    for x, value in curve.points:
        column, y = round(scale.x(x) * (wide - 1)), round((1 - scale.y(value)) * (high - 1))
        if column != at:
            if at >= 0:
                yield at, ys
            at, ys = column, [y]
        elif y != ys[-1]:
            ys.append(y)
    yield at, ys


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the dots between two dots, without them."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [(start[0] + round(i * (end[0] - start[0]) / count), start[1] + round(i * (end[1] - start[1]) / count))
            for i in range(1, count)]


def _with_axes(cells: Cells, scale: Scale, resumes: set[int], by_time: bool) -> Text:
    picture = Text()
    for number, row in enumerate(cells):
        share = 1 - number / (len(cells) - 1)
        is_labelled = number % 3 == 0 or number == len(cells) - 1
        label = value_words(scale.value(share)) if is_labelled else ""
        picture.append(f"{label:>{LABEL_CELLS}}", AXIS).append("┤" if is_labelled else "│", AXIS)
        for column, (bits, style) in enumerate(row):
            if bits:
                picture.append(chr(0x2800 + bits), style)
            else:
                picture.append(RESUME if column in resumes else " ", AXIS)
        picture.append("\n")
    left, right = (duration(scale.first), duration(scale.last)) if by_time else (f"{scale.first}", f"step {scale.last}")
    right += " (log)" if scale.logarithmic else ""
    gap = max(1, len(cells[0]) - len(left) - len(right))
    picture.append(" " * (LABEL_CELLS + 1) + left + " " * gap + right, AXIS)
    return picture
