"""Evaluations: how far they are and what they found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rdtops.contract.run import RunState
from rdtops.contract.tally import tallies
from rdtops.hostlib import fields
from rdtops.runs.evaluations import EvalView
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.words import exit_words, last_lines, state_word, table_of


@shown.register
def _(thing: EvalView) -> RenderableType:
    parts: list[RenderableType] = [evaluation_line(thing)]
    if thing.report:
        parts.append(_rates(thing.report))
        parts += [styled("[yellow]note:[/] {}", note) for note in fields.words(thing.report.get("notes"))]
    if thing.state in (RunState.FAILED, RunState.LOST):
        parts.append(styled("  [red]{}[/]  {}\n"
                            "  [bold]-> the same inv eval goes on where it ended; inv logs --eval --host {}[/]",
                            exit_words(thing.exit_code), last_lines(thing.log_tail, "  "), thing.host))
    return Group(*parts, styled("[dim]{}:{}[/]", thing.host, thing.folder))


def evaluation_line(view: EvalView) -> Text:
    errors = f", {view.outcomes['error']} errors" if view.outcomes["error"] else ""
    of = f" of {view.planned}" if view.planned is not None else ""
    return styled("{} [bold]{}[/]  {}{} trials: {} succeeded{}", state_word(view.state, 9), view.name,
                  view.ended_trials, of, view.outcomes["success"], errors)


def _rates(report: Mapping[str, Any]) -> Table:
    table = table_of("", "success", "rate", "95 % interval", "steps", "errors", "task")
    for tally in tallies(report, "all"):
        table.add_row(tally.counts_words, tally.rate_words, tally.interval_words, tally.steps_words,
                      tally.errors_words, tally.language)
    return table


@rows.register
def _(thing: EvalView) -> list[dict[str, Any]]:
    return [thing.to_json()]
