"""Launch output: what would be started, and what was started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from rdtops.checks import CheckResult
from rdtops.runs.jobs import Launched
from rdtops.views.output import WorkflowOutput
from rdtops.views.preflight_output import together
from rdtops.views.terminal import styled
from rdtops.views.words import stacked, verbatim


@dataclass(frozen=True)
class DryRunOutput(WorkflowOutput):
    """The output of `inv train --dry-run` and `inv eval --dry-run`: each file by name, the command that would start it,
    the names of the secrets, which go into a separate file, and what a resume would find changed."""

    host: str
    root: str
    files: Mapping[str, str]
    start: str
    secrets: tuple[str, ...]
    secrets_file: str  # '' when there are none
    compared: tuple[CheckResult, ...] = ()

    def __rich__(self) -> RenderableType:
        secret = [styled("[bold]and, over stdin, to {} (mode 0600)[/]: {}", self.secrets_file,
                         ", ".join(self.secrets))] if self.secrets else []
        return Group(styled("[bold]would be started with[/] {}", self.start),
                     styled("[bold]would be written to {}:{}[/]", self.host, self.root), *secret,
                     *(line for result in self.compared for line in together([result])),
                     *(part for name, text in self.files.items()
                       for part in (styled("[dim]--- {}[/]", name), verbatim(text))))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"host": self.host, "root": self.root, "start": self.start, "files": dict(self.files),
                 "secrets": list(self.secrets), "secrets_file": self.secrets_file or None,
                 "compared": [result.to_json() for result in self.compared]}]


@dataclass(frozen=True)
class LaunchOutput(WorkflowOutput):
    launched: Launched

    def __rich__(self) -> RenderableType:
        return _evaluation_lines(self.launched) if self.launched.evaluation else _training_lines(self.launched)

    def to_json(self) -> list[dict[str, Any]]:
        return [self.launched.to_json()]


def start_words(launched: Launched) -> str:
    """Return how it was started: `detached in tmux`, `handed to Slurm, job 12`."""
    return f"{'handed to' if launched.is_scheduled else 'detached in'} {launched.launcher}"


def _training_lines(it: Launched) -> RenderableType:
    how, since = ("resumed", f" from {it.resumed_from}") if it.resumed_from else ("started", "")
    first = (styled("[green]running already[/]: [bold]{}[/] on {} is the same training, so no second one was "
                    "started (inv train --again starts one)", it.run_id, it.host)
             if it.submitted.already else
             styled("[green]{}[/] [bold]{}[/]{} on {}, {}: it continues without this laptop", how, it.run_id, since,
                    it.host, start_words(it)))
    note = it.submitted.note
    which = f" --run {it.run_id}" if it.resumed_from else ""  # a resumed run need not be the newest
    return stacked(first, *([styled("  [dim]{}[/]", note)] if note else []),
                   styled("  follow it:  inv watch --host {}{}", it.host, which),
                   styled("  get it:     inv fetch-results --host {}{}", it.host, which),
                   styled("  [dim]{}[/]", it.folder))


def _evaluation_lines(it: Launched) -> RenderableType:
    return stacked(
        styled("[green]started[/] [bold]{}[/] on {}, {}: {} trials of {} tasks", it.evaluation, it.host,
               start_words(it), it.trials, len(it.tasks)),
        *(styled("  [yellow]note:[/] {}", note) for note in it.notes),
        styled("  follow it:  inv logs --eval --follow --host {}", it.host),
        styled("  get it:     inv fetch-results --host {} --run {}", it.host, it.run_id),
        styled("  [dim]{}[/]", it.folder))
