"""Evaluations: their progress and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rdtops.contract import fields
from rdtops.contract.run import RunState
from rdtops.contract.tally import tallies
from rdtops.ops.evaluation import EvalLaunched, EvalView
from rdtops.ops.output import Output
from rdtops.ops.render.words import exit_words, last_lines, stacked, start_words, state_word, table_of
from rdtops.ops.terminal import styled


@dataclass(frozen=True)
class EvaluationLaunchOutput(Output):
    launched: EvalLaunched

    def __rich__(self) -> RenderableType:
        it = self.launched
        return stacked(
            styled("[green]started[/] [bold]{}[/] on {}, {}: {} trials of {} tasks", it.name, it.host,
                   start_words(it.launcher), it.trials, len(it.tasks)),
            *(styled("  [yellow]note:[/] {}", note) for note in it.notes),
            styled("  follow it:  inv logs --eval --follow --host {}", it.host),
            styled("  get it:     inv fetch-results --host {} --run {}", it.host, it.run_id),
            styled("  [dim]{}[/]", it.folder))

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(self.launched)]


@dataclass(frozen=True)
class EvaluationOutput(Output):
    evaluation: EvalView

    @property
    def exit_code(self) -> int:
        return int(self.evaluation.state in (RunState.FAILED, RunState.LOST))

    def __rich__(self) -> RenderableType:
        it = self.evaluation
        parts: list[RenderableType] = [evaluation_line(it)]
        if it.report:
            parts.append(_rates(it.report))
            parts += [styled("[yellow]note:[/] {}", note) for note in fields.words(it.report.get("notes"))]
        if it.state in (RunState.FAILED, RunState.LOST):
            parts.append(styled("  [red]{}[/]  {}\n"
                                "  [bold]-> the same inv eval resumes it; inv logs --eval --host {}[/]",
                                exit_words(it.exit_code), last_lines(it.log_tail, "  "), it.host))
        return Group(*parts, styled("[dim]{}:{}[/]", it.host, it.folder))

    def to_json(self) -> list[dict[str, Any]]:
        return [self.evaluation.to_json()]


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
