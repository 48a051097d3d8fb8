"""Plot: curves in braille dots, two by four in a cell of the terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from rdtops.views.scale import Scale

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # [column][row from above] of a cell
LABEL_CELLS = 8


@dataclass(frozen=True)
class Curve:
    """A curve. `points`: (step, value), steps ascending. `marks`: drawn as single dots, not joined."""

    name: str
    points: Sequence[tuple[int, float]]
    style: str
    marks: bool = False


def plot(curves: Sequence[Curve], columns: int, rows: int, *, logarithmic: bool | None = None) -> Text:
    """Draw curves with axes in that many cells. `logarithmic` None: automatic."""
    drawn = [Curve(c.name, [p for p in c.points if math.isfinite(p[1])], c.style, c.marks) for c in curves]
    drawn = [c for c in drawn if c.points]
    width, height = columns - LABEL_CELLS - 1, rows - 1
    if not drawn or width < 4 or height < 2:
        return Text("no step yet", style="dim")
    scale = Scale.of([c.points for c in drawn], logarithmic)
    cells: list[list[tuple[int, str]]] = [[(0, "")] * width for _ in range(height)]
    for curve in drawn:
        _draw(cells, curve, scale)
    return _with_axes(cells, scale)


def _draw(cells: list[list[tuple[int, str]]], curve: Curve, scale: Scale) -> None:
    wide, high = 2 * len(cells[0]), 4 * len(cells)
    columns: dict[int, list[float]] = {}
    for step, value in curve.points:
        columns.setdefault(round(scale.x(step) * (wide - 1)), []).append(scale.y(value))
    heights = {x: round((1 - sum(ys) / len(ys)) * (high - 1)) for x, ys in columns.items()}
    before: tuple[int, int] | None = None
    for x in sorted(heights):
        for dot_x, dot_y in [(x, heights[x])] if curve.marks or before is None else _line(before, (x, heights[x])):
            bits, _ = cells[dot_y // 4][dot_x // 2]
            cells[dot_y // 4][dot_x // 2] = (bits | DOTS[dot_x % 2][dot_y % 4], curve.style)
        before = (x, heights[x])


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [(start[0] + round(i * (end[0] - start[0]) / count), start[1] + round(i * (end[1] - start[1]) / count))
            for i in range(count + 1)]


def _with_axes(cells: list[list[tuple[int, str]]], scale: Scale) -> Text:
    picture = Text()
    for number, row in enumerate(cells):
        share = 1 - number / (len(cells) - 1)
        is_labelled = number % 3 == 0 or number == len(cells) - 1
        label = _short(scale.value(share)) if is_labelled else ""
        picture.append(f"{label:>{LABEL_CELLS}}", "dim").append("┤" if is_labelled else "│", "dim")
        for bits, style in row:
            picture.append(chr(0x2800 + bits) if bits else " ", style)
        picture.append("\n")
    left, right = f"{scale.first}", f"step {scale.last}" + (" (log)" if scale.logarithmic else "")
    gap = max(1, len(cells[0]) - len(left) - len(right))
    picture.append(" " * (LABEL_CELLS + 1) + left + " " * gap + right, "dim")
    return picture


def _short(value: float) -> str:
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.1e}" if value else "0"
