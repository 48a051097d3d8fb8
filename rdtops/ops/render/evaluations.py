"""Evaluations: how far they are and what they found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from rdtops.contract.run import RunState
from rdtops.ops.evaluation import EvalLaunched, EvalView
from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.jobs import start_words
from rdtops.ops.render.words import STATE_STYLE, exit_words, table_of


@shown.register
def _(thing: EvalLaunched) -> RenderableType:
    notes = "".join(f"\n  [yellow]note:[/] {escape(note)}" for note in thing.notes)
    return (f"[green]started[/] [bold]{escape(thing.name)}[/] on {escape(thing.host)}, {start_words(thing.launcher)}: "
            f"{thing.trials} trials of {len(thing.tasks)} tasks{notes}\n"
            f"  follow it:  inv logs --eval --follow --host {thing.host}\n"
            f"  get it:     inv fetch-results --host {thing.host} --run {thing.run_id}\n"
            f"  [dim]{escape(thing.folder)}[/]")


@shown.register
def _(thing: EvalView) -> RenderableType:
    parts: list[RenderableType] = [evaluation_line(thing)]
    if thing.report:
        parts.append(_rates(thing.report))
        parts += [f"[yellow]note:[/] {escape(note)}" for note in thing.report["notes"]]
    if thing.state in (RunState.FAILED, RunState.LOST):
        last_words = "\n  ".join(thing.log_tail.strip().splitlines()[-6:])
        parts.append(f"  [red]{exit_words(thing.exit_code)}[/]  {escape(last_words)}\n"
                     f"  [bold]-> the same inv eval goes on where it ended; inv logs --eval --host {thing.host}[/]")
    return Group(*parts, f"[dim]{escape(thing.host)}:{escape(thing.folder)}[/]")


def evaluation_line(view: EvalView) -> str:
    errors = f", {view.outcomes['error']} errors" if view.outcomes["error"] else ""
    of = f" of {view.planned}" if view.planned is not None else ""
    return (f"[{STATE_STYLE[view.state]}]{view.state.value:9}[/] [bold]{escape(view.name)}[/]  {view.ended_trials}{of} "
            f"trials: {view.outcomes['success']} succeeded{errors}")


def _rates(report: Mapping[str, Any]) -> Table:
    table = table_of("", "success", "rate", "95 % interval", "steps", "errors", "task")
    for row in [*report["tasks"], {"language": "all", **report["total"]}]:
        rate, interval, steps = row["success_rate"], row["wilson_95"], row["mean_steps_to_success"]
        table.add_row(f"{row['successes']} of {row['trials']}", "" if rate is None else f"{100 * rate:.1f} %",
                      "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %",
                      "" if steps is None else f"{steps:.0f}", str(row["errors"] or ""), escape(row["language"]))
    return table


@rows.register
def _(thing: EvalLaunched) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: EvalView) -> list[dict[str, Any]]:
    return [thing.to_json()]
