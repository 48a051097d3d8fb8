"""Runs: what would be launched, what was, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from rdtops.contract.run import RunState
from rdtops.ops.render.evaluations import evaluation_line
from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.jobs import job_lines, start_words
from rdtops.ops.render.words import STATE_STYLE, duration, exit_words, verbatim
from rdtops.ops.runs import Gpu, RunView
from rdtops.ops.training import Launched
from rdtops.ops.views import HostStatus, LaunchPlan, Text


@shown.register
def _(thing: Text) -> RenderableType:
    return verbatim(thing.text.removesuffix("\n"))


@shown.register
def _(thing: LaunchPlan) -> RenderableType:
    secret = [f"[bold]and, over stdin, to {escape(thing.secrets_file)} (mode 0600)[/]: {', '.join(thing.secrets)}"
              ] if thing.secrets else []
    return Group(f"[bold]would be started with[/] {escape(thing.start)}",
                 f"[bold]would be written to {escape(thing.host)}:{escape(thing.root)}[/]", *secret,
                 *(part for name, text in thing.files.items()
                   for part in (f"[dim]--- {escape(name)}[/]", verbatim(text))))


@shown.register
def _(thing: Launched) -> RenderableType:
    run, host = f"[bold]{escape(thing.run_id)}[/]", escape(thing.host)
    how = f"resumed from {thing.resumed_from}" if thing.resumed_from else "started"
    said = (f"[green]{how}[/] {run} on {host}, {start_words(thing.launcher)}: it goes on without this laptop\n"
            if thing.is_new else
            f"[green]running already[/]: {run} on {host} is this very training, so no other was started "
            "(inv train --again does)\n")
    note = f"  [dim]{escape(thing.note)}[/]\n" if thing.note else ""
    return (f"{said}{note}"
            f"  follow it:  inv watch --host {thing.host}\n"
            f"  get it:     inv fetch-results --host {thing.host}\n"
            f"  [dim]{escape(thing.root)}[/]")


@shown.register
def _(thing: RunView) -> RenderableType:
    head = (f"[{STATE_STYLE[thing.state]}]{thing.state.value:9}[/] [bold]{escape(thing.run_id)}[/]  "
            f"{escape(thing.host)}  {escape('  '.join(f for f in _numbers(thing) if f))}")
    return "\n".join([head, *_details(thing)])


@shown.register
def _(thing: HostStatus) -> RenderableType:
    if thing.problem:
        remedy = f"\n  [bold]-> {escape(thing.problem.remedy)}[/]" if thing.problem.remedy else ""
        return f"[bold]{escape(thing.host)}[/]  [bold red]cannot be asked:[/] {escape(thing.problem.message)}{remedy}"
    if not thing.runs:
        return (f"[bold]{escape(thing.host)}[/]  [dim]no run yet[/]\n"
                f"  [bold]-> inv deploy check train --host {escape(thing.host)}[/]")
    numbers = [_numbers(status.run) for status in thing.runs]
    widths = [max(len(row[column]) for row in numbers) for column in range(len(numbers[0]))]
    lines = [f"[bold]{escape(thing.host)}[/]"]
    for status, row in zip(thing.runs, numbers, strict=True):
        told = "  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True) if width)
        lines.append(f"  [{STATE_STYLE[status.run.state]}]{status.run.state.value:9}[/] "
                     f"[bold]{escape(status.run.run_id)}[/]  {escape(told.rstrip())}")
        lines += _details(status.run)
        lines += [f"            evaluation {evaluation_line(e)}" for e in status.evaluations]
    return "\n".join(lines)


def _numbers(run: RunView) -> list[str]:
    """Step, loss, speed, time to go; '' for what is not known."""
    return [f"step {run.step} of {run.max_steps}" if run.max_steps else f"step {run.step}",
            f"loss {run.loss:.4f}" if run.loss is not None else "",
            f"{run.samples_per_s:.1f} samples/s" if run.samples_per_s else "",
            f"{duration(run.eta_s)} to go" if run.eta_s and run.state is RunState.RUNNING else ""]


def _details(run: RunView) -> list[str]:
    """What stands below a run: its checkpoint, its GPUs, its last sign; of one that went wrong its last words."""
    saved = f"{run.last_checkpoint}, {_ago(run.last_checkpoint_s)}" if run.last_checkpoint else ""
    facts = [saved, gpus_words(run.gpus), f"last sign {_ago(run.last_event_s)}" if run.last_event_s else ""]
    lines = [f"            [dim]{escape('   '.join(f for f in facts if f))}[/]"] if any(facts) else []
    lines += [f"            {words}" for words in job_lines(run.job)]
    if run.state in (RunState.FAILED, RunState.LOST):
        last_words = run.error or "\n            ".join(run.log_tail.strip().splitlines()[-6:])
        lines.append(f"            [red]{exit_words(run.exit_code)}[/]  {escape(last_words)}")
        lines.append(f"            [bold]-> inv logs --host {escape(run.host)} --run {escape(run.run_id)}[/]")
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
def _(thing: Launched) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: RunView) -> list[dict[str, Any]]:
    return [thing.to_json()]


@rows.register
def _(thing: HostStatus) -> list[dict[str, Any]]:
    if thing.problem:
        return [{"host": thing.host, "problem": thing.problem.message, "remedy": thing.problem.remedy or None}]
    return [{**status.run.to_json(), "evaluations": [e.to_json() for e in status.evaluations]} for status in thing.runs]
