"""What the demo, the benches and the drills of this repository found."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from rich.console import Group, RenderableType

from rdtops.checks import Status
from rdtops.ui.repository import Drilled, Measured, Summary
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.words import SIGNS, grid_of, table_of


@shown.register
def _(thing: Summary) -> RenderableType:
    return Group(styled("\n[bold green]{}[/]", thing.title), grid_of(thing.pairs))


@shown.register
def _(thing: Measured) -> RenderableType:
    verdict = "[green]holds[/]" if thing.holds else "[bold red]missed[/]"
    return styled(verdict + "  {}: {}  [dim]goal: {}; {}[/]", thing.name, f"{thing.value:g}", thing.goal, thing.how)


@shown.register
def _(thing: Drilled) -> RenderableType:
    columns = [f.name for f in fields(thing.rows[0]) if f.name != "passed"] if thing.rows else []
    table = table_of(thing.title, "", *(name.replace("_", " ") for name in columns))
    for row in thing.rows:
        cells = ("" if getattr(row, name) is None else str(getattr(row, name)) for name in columns)
        table.add_row(SIGNS[Status.OK if getattr(row, "passed", thing.passed) else Status.FAIL], *cells)
    verdict = [styled("[green]{}[/]", thing.verdict)] if thing.passed and thing.verdict else []
    return Group(table, *(styled("[bold red]{}[/]", problem) for problem in thing.problems), *verdict)


@rows.register
def _(thing: Measured) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: Drilled) -> list[dict[str, Any]]:
    return [{**asdict(row), "passed": getattr(row, "passed", thing.passed), "problems": list(thing.problems)}
            for row in thing.rows]
