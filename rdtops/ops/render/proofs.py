"""What the demo, the benches and the drills of this repository found."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from rdtops.checks import Status
from rdtops.ops.drill import Drill
from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.words import SIGNS, grid_of, table_of
from rdtops.ops.repository import Measured, Summary
from rdtops.ops.training_drill import TrainingDrill


@shown.register
def _(thing: Summary) -> RenderableType:
    return Group(f"\n[bold green]{escape(thing.title)}[/]", grid_of(thing.pairs))


@shown.register
def _(thing: Measured) -> RenderableType:
    verdict = "[green]holds[/]" if thing.holds else "[bold red]missed[/]"
    return f"{verdict}  {escape(thing.name)}: {thing.value:g}  [dim]goal: {escape(thing.goal)}; {escape(thing.how)}[/]"


@shown.register
def _(thing: Drill) -> RenderableType:
    table = table_of(thing.title, "", "fault", "killed", "unharmed", "runs after it", "converged", "wrong files seen",
                   "sent twice")
    for row in thing.rows:
        twice = "" if row.sent_twice_percent is None else f"{row.sent_twice_percent:g} %"
        table.add_row(SIGNS[Status.OK if row.passed else Status.FAIL], row.fault, str(row.killed), str(row.unharmed),
                      str(row.runs), f"{row.converged} of {row.killed + row.unharmed}", str(row.wrong_files), twice)
    problems = [f"[bold red]{escape(problem)}[/]" for row in thing.rows for problem in row.problems]
    return Group(table, *problems)


@shown.register
def _(thing: TrainingDrill) -> RenderableType:
    table = table_of(thing.title, "", "moment", "kills", "half-written checkpoints left behind", "steps done again")
    for row in thing.rows:
        table.add_row(SIGNS[Status.OK if thing.passed else Status.FAIL], row.moment, str(row.kills),
                      str(row.torn_saves), str(row.steps_repeated))
    verdict = "[green]it ended with the same weights, average, moments and losses as the one left alone, bit for bit[/]"
    return Group(table, *([f"[bold red]{escape(p)}[/]" for p in thing.problems] or [verdict]))


@rows.register
def _(thing: Measured) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: Drill) -> list[dict[str, Any]]:
    return [asdict(row) for row in thing.rows]


@rows.register
def _(thing: TrainingDrill) -> list[dict[str, Any]]:
    return [{**asdict(row), "passed": thing.passed, "problems": list(thing.problems)} for row in thing.rows]
