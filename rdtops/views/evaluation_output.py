"""Evaluation output: progress and results of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rdtops.contract.run import RunState
from rdtops.contract.tally import tallies
from rdtops.hostlib import fields
from rdtops.runs.evaluations import EvalView
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import exit_words, last_lines, state_word, table_of


@dataclass(frozen=True)
class EvaluationOutput(WorkflowOutput):
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
