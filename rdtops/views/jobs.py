"""Jobs: what came of a launch, and what a cluster's scheduler says of a run, below it."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from rdtops.launcher import JobState, Phase
from rdtops.runs.jobs import Launched
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.words import stacked


def job_lines(job: JobState | None) -> list[Text]:
    """None where there is nothing to say: a run on a host of its own, one that the scheduler never saw."""
    if job is None or job.phase is Phase.ABSENT or not job.words:
        return []
    needs_somebody = job.remedy and (job.cause or job.phase is Phase.UNKNOWN)
    return [styled("{}", job.words), *([styled("[bold]-> {}[/]", job.remedy)] if needs_somebody else [])]


def job_begins(d: dict[str, Any]) -> str:
    """What the Journal says of it."""
    again = f", queued again {d['restarts']} x" if d.get("restarts") else ""
    return f"job {d.get('job')} of {d.get('launcher')} begins on {d.get('nodes')}{again}"


@shown.register
def _(thing: Launched) -> RenderableType:
    return _evaluation_lines(thing) if thing.evaluation else _training_lines(thing)


@rows.register
def _(thing: Launched) -> list[dict[str, Any]]:
    return [thing.to_json()]


def start_words(thing: Launched) -> str:
    """How it was begun: `detached in tmux`, `handed to Slurm, job 12`."""
    return f"{'handed to' if thing.is_scheduled else 'detached in'} {thing.launcher}"


def _training_lines(thing: Launched) -> RenderableType:
    how = f"resumed from {thing.resumed_from}" if thing.resumed_from else "started"
    first = (styled("[green]running already[/]: [bold]{}[/] on {} is this very training, so no other was started "
                    "(inv train --again does)", thing.run_id, thing.host)
             if thing.submitted.already else
             styled("[green]{}[/] [bold]{}[/] on {}, {}: it goes on without this laptop", how, thing.run_id, thing.host,
                    start_words(thing)))
    note = thing.submitted.note
    return stacked(first, *([styled("  [dim]{}[/]", note)] if note else []),
                   styled("  follow it:  inv watch --host {}", thing.host),
                   styled("  get it:     inv fetch-results --host {}", thing.host),
                   styled("  [dim]{}[/]", thing.folder))


def _evaluation_lines(thing: Launched) -> RenderableType:
    return stacked(
        styled("[green]started[/] [bold]{}[/] on {}, {}: {} trials of {} tasks", thing.evaluation, thing.host,
               start_words(thing), thing.trials, len(thing.tasks)),
        *(styled("  [yellow]note:[/] {}", note) for note in thing.notes),
        styled("  follow it:  inv logs --eval --follow --host {}", thing.host),
        styled("  get it:     inv fetch-results --host {} --run {}", thing.host, thing.run_id),
        styled("  [dim]{}[/]", thing.folder))
