"""Runs: what would be launched, what was, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text as Styled

from rdtops.answers import Gpu
from rdtops.contract.run import RunState
from rdtops.runs.overview import RunView
from rdtops.views.evaluations import evaluation_line
from rdtops.views.forms import rows, shown
from rdtops.views.jobs import job_lines
from rdtops.views.terminal import styled
from rdtops.views.views import HostStatus, LaunchPlan, Text
from rdtops.views.words import duration, exit_words, last_lines, stacked, state_word, verbatim


@shown.register
def _(thing: Text) -> RenderableType:
    return verbatim(thing.text.removesuffix("\n"))


@shown.register
def _(thing: LaunchPlan) -> RenderableType:
    secret = [styled("[bold]and, over stdin, to {} (mode 0600)[/]: {}", thing.secrets_file, ", ".join(thing.secrets))
              ] if thing.secrets else []
    return Group(styled("[bold]would be started with[/] {}", thing.start),
                 styled("[bold]would be written to {}:{}[/]", thing.host, thing.root), *secret,
                 *(part for name, text in thing.files.items()
                   for part in (styled("[dim]--- {}[/]", name), verbatim(text))))


@shown.register
def _(thing: RunView) -> RenderableType:
    head = styled("{} [bold]{}[/]  {}  {}", state_word(thing.state, 9), thing.run_id, thing.host,
                  "  ".join(f for f in _numbers(thing) if f))
    return stacked(head, *_details(thing))


@shown.register
def _(thing: HostStatus) -> RenderableType:
    if thing.problem:
        remedy = [styled("  [bold]-> {}[/]", thing.problem.remedy)] if thing.problem.remedy else []
        return stacked(styled("[bold]{}[/]  [bold red]cannot be asked:[/] {}", thing.host, thing.problem.message),
                        *remedy)
    if not thing.runs:
        return stacked(styled("[bold]{}[/]  [dim]no run yet[/]", thing.host),
                        styled("  [bold]-> inv deploy check train --host {}[/]", thing.host))
    numbers = [_numbers(status.run) for status in thing.runs]
    widths = [max(len(row[column]) for row in numbers) for column in range(len(numbers[0]))]
    lines = [styled("[bold]{}[/]", thing.host)]
    for status, row in zip(thing.runs, numbers, strict=True):
        told = "  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True) if width)
        lines.append(styled("  {} [bold]{}[/]  {}", state_word(status.run.state, 9), status.run.run_id, told.rstrip()))
        lines += _details(status.run)
        lines += [styled("            evaluation {}", evaluation_line(e)) for e in status.evaluations]
    return stacked(*lines)


def _numbers(run: RunView) -> list[str]:
    """Step, loss, speed, time to go; '' for what is not known."""
    return [f"step {run.step} of {run.max_steps}" if run.max_steps else f"step {run.step}",
            f"loss {run.loss:.4f}" if run.loss is not None else "",
            f"{run.samples_per_s:.1f} samples/s" if run.samples_per_s else "",
            f"{duration(run.eta_s)} to go" if run.eta_s and run.state is RunState.RUNNING else ""]


def _details(run: RunView) -> list[Styled]:
    """What stands below a run: its checkpoint, its GPUs, its last sign; of one that went wrong its last words."""
    saved = f"{run.last_checkpoint}, {_ago(run.last_checkpoint_s)}" if run.last_checkpoint else ""
    facts = [saved, gpus_words(run.gpus), f"last sign {_ago(run.last_event_s)}" if run.last_event_s else ""]
    lines = [styled("            [dim]{}[/]", "   ".join(f for f in facts if f))] if any(facts) else []
    lines += [styled("            [yellow]cannot be read:[/] {}", run.problem)] if run.problem else []
    lines += [styled("            {}", words) for words in job_lines(run.job)]
    if run.state in (RunState.FAILED, RunState.LOST):
        last_words = run.error or last_lines(run.log_tail, "            ")
        lines.append(styled("            [red]{}[/]  {}", exit_words(run.exit_code), last_words))
        lines.append(styled("            [bold]-> inv logs --host {} --run {}[/]", run.host, run.run_id))
    return lines


def gpus_words(gpus: Sequence[Gpu]) -> str:
    """`GPU 0, 1: 97 %, 142 of 160 GiB`; '' without any."""
    if not gpus:
        return ""
    loads = [gpu.utilization_percent for gpu in gpus if gpu.utilization_percent is not None]
    load = f"{sum(loads) / len(loads):.0f} %, " if loads else ""
    used, total = (sum(getattr(g, name) or 0 for g in gpus) / 1024 for name in ("memory_used_mib", "memory_total_mib"))
    return f"GPU {', '.join(str(gpu.index) for gpu in gpus)}: {load}{used:.0f} of {total:.0f} GiB"


def _ago(time_s: float) -> str:
    return f"{duration(max(0.0, time.time() - time_s))} ago"


@rows.register
def _(thing: RunView) -> list[dict[str, Any]]:
    return [thing.to_json()]


@rows.register
def _(thing: HostStatus) -> list[dict[str, Any]]:
    if thing.problem:
        return [{"host": thing.host, "problem": thing.problem.message, "remedy": thing.problem.remedy or None}]
    return [{**status.run.to_json(), "evaluations": [e.to_json() for e in status.evaluations]} for status in thing.runs]
