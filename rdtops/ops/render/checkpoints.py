"""Checkpoints, and what the plugins said of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.journal import recorded
from rdtops.ops.render.words import heldout_words, size, table_of
from rdtops.ops.workflows import CheckpointList


@shown.register
def _(thing: CheckpointList) -> RenderableType:
    table = table_of(f"checkpoints of {thing.run.run_id} on {thing.run.host}", "", "step", "name", "size",
                   "held-out loss", "digest", "plugins")
    for row in thing.rows:
        said = "\n".join(recorded(r) for r in row.records if r.value or r.error)
        marks = ", ".join(word for word, holds in (("best", row.best), ("latest", row.latest)) if holds)
        table.add_row(marks, str(row.checkpoint.step), row.checkpoint.name, size(row.checkpoint.size_bytes),
                      heldout_words(row.checkpoint.heldout_loss), row.checkpoint.digest, said)
    unfinished = [f"[yellow]not complete, so not counted:[/] {escape(', '.join(thing.unfinished))}"]
    return Group(table, *(unfinished if thing.unfinished else []))


@rows.register
def _(thing: CheckpointList) -> list[dict[str, Any]]:
    return [{"run_id": r.run_id, "host": r.host, "latest": r.latest, "best": r.best, **asdict(r.checkpoint),
             "hooks": [asdict(record) for record in r.records]} for r in thing.rows]
