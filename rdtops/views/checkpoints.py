"""Checkpoints: what is known of their files, and what the plugins said of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.views.forms import rows, shown
from rdtops.views.journal import recorded
from rdtops.views.terminal import styled
from rdtops.views.views import CheckpointList, CheckpointRow
from rdtops.views.words import heldout_words, size, stacked, table_of

STATES = {"verified": styled("[green]verified[/]"), "unverified": styled("[dim]only sizes looked at[/]"),
          "damaged": styled("[bold red]damaged[/]")}


@shown.register
def _(thing: CheckpointList) -> RenderableType:
    table = table_of(f"checkpoints of {thing.run.run_id} on {thing.run.host}", "", "step", "name", "size",
                     "held-out loss", "files", "digest", "plugins")
    for row in thing.rows:
        said = stacked(*(recorded(r) for r in row.records if r.value or r.error))
        marks = ", ".join(word for word, holds in (("best", row.best), ("latest", row.latest)) if holds)
        table.add_row(Text(marks, "bold"), str(row.checkpoint.step), row.checkpoint.name,
                      size(row.checkpoint.size_bytes), heldout_words(row.checkpoint.heldout_loss), STATES[row.state],
                      row.checkpoint.digest, said)
    return Group(table, *_notes(thing))


def _notes(thing: CheckpointList) -> list[Text]:
    """What is wrong, and what one would type next."""
    run = f"--host {thing.run.host} --run {thing.run.run_id}"
    lines = [styled("[bold red]{}: {}[/]", row.checkpoint.name, "; ".join(row.wrong)) for row in thing.rows
             if row.wrong]
    lines += [styled("[yellow]not counted:[/] {}: {}", name, why) for name, why in thing.others]
    if any(row.wrong for row in thing.rows):
        good = [row for row in thing.rows if not row.wrong]
        lines.append(styled("[bold]-> {}[/]", _without_damage(good, run)))
    elif any(row.state == "unverified" for row in thing.rows):
        lines.append(styled("[dim]inv checkpoints --verify {}   # reads every byte there[/]", run))
    return lines


def _without_damage(good: list[CheckpointRow], run: str) -> str:
    if not good:
        return f"inv logs {run}   # none is left that is whole"
    return f"inv fetch-results {run} --checkpoint {good[-1].checkpoint.step}   # the newest that is whole"


@rows.register
def _(thing: CheckpointList) -> list[dict[str, Any]]:
    return [{"run_id": r.run_id, "host": r.host, "latest": r.latest, "best": r.best, "state": r.state,
             "wrong": list(r.wrong), **asdict(r.checkpoint), "hooks": [asdict(record) for record in r.records]}
            for r in thing.rows]
