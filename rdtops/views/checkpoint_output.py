"""Checkpoint output: the state of the files, and the plugins' results for each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.contract.run import Checkpoint
from rdtops.runs.overview import RunView
from rdtops.runs.records import HookRecord
from rdtops.views.journal_output import recorded
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import heldout_words, size, table_of

SHORT = 12  # characters of a digest, as git shows one; --json has it whole
STATES = {"verified": styled("[green]verified[/]"), "unverified": styled("[dim]sizes only[/]"),
          "damaged": styled("[bold red]damaged[/]")}


@dataclass(frozen=True)
class CheckpointRow:
    checkpoint: Checkpoint
    latest: bool
    best: bool
    records: tuple[HookRecord, ...]
    state: str  # of its files against its manifest: verified, unverified, damaged
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointsOutput(WorkflowOutput):
    """The checkpoints of a run. `others`: what is not a complete checkpoint, and why."""

    run: RunView
    rows: tuple[CheckpointRow, ...]
    others: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        return int(any(row.state == "damaged" for row in self.rows))

    def __rich__(self) -> RenderableType:
        table = table_of(f"checkpoints of {self.run.run_id} on {self.run.host}", "name", "size", "validation loss",
                         "files", "digest", "plugins", "")
        for row in self.rows:
            marks = ", ".join(word for word, holds in (("best", row.best), ("latest", row.latest)) if holds)
            table.add_row(row.checkpoint.name, size(row.checkpoint.size_bytes),
                          heldout_words(row.checkpoint.heldout_loss), STATES[row.state],
                          row.checkpoint.digest[:SHORT], ", ".join(r.plugin for r in row.records if not r.error),
                          Text(marks, "bold"))
        return Group(table, *_notes(self))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"run_id": self.run.run_id, "host": self.run.host, "latest": r.latest, "best": r.best,
                 "state": r.state, "wrong": list(r.wrong), **asdict(r.checkpoint),
                 "hooks": [asdict(record) for record in r.records]} for r in self.rows]


def _notes(output: CheckpointsOutput) -> list[Text]:
    """Return the problems, and the next command."""
    run = f"--host {output.run.host} --run {output.run.run_id}"
    lines = [styled("[bold red]{}: {}[/]", row.checkpoint.name, "; ".join(row.wrong)) for row in output.rows
             if row.wrong]
    lines += [styled("{}: {}", row.checkpoint.name, recorded(record)) for row in output.rows for record in row.records
              if record.error]
    lines += [styled("[yellow]not counted:[/] {}: {}", name, why) for name, why in output.others]
    if any(row.wrong for row in output.rows):
        good = [row for row in output.rows if not row.wrong]
        lines.append(styled("[bold]-> {}[/]", _without_damage(good, run)))
    elif any(row.state == "unverified" for row in output.rows):
        lines.append(styled("[dim]inv checkpoints --verify {}   # reads every byte on the host[/]", run))
    return lines


def _without_damage(good: list[CheckpointRow], run: str) -> str:
    if not good:
        return f"inv logs {run}   # no complete checkpoint is left"
    return f"inv fetch-results {run} --checkpoint {good[-1].checkpoint.step}   # the newest complete one"
