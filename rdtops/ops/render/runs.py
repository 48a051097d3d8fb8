"""Runs: what would be launched, what was, and what became of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from rdtops.contract.run import RunState
from rdtops.ops.render.evaluations import evaluation_line
from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.words import STATE_STYLE, duration, exit_words, verbatim
from rdtops.ops.runs import RunView, age
from rdtops.ops.training import Launched
from rdtops.ops.workflows import LaunchPlan, RunStatus, Text


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
    said = (f"[green]{how}[/] {run} on {host}, detached in {thing.launcher}: it goes on without this laptop\n"
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
    of = f"step {thing.step} of {thing.max_steps}" if thing.max_steps else f"step {thing.step}"
    facts = [of, f"loss {thing.loss:.4f}" if thing.loss is not None else "",
             f"{thing.samples_per_s:.1f} samples/s" if thing.samples_per_s else "",
             f"{duration(thing.eta_s)} to go" if thing.eta_s and thing.state is RunState.RUNNING else "",
             thing.last_checkpoint, f"last sign {duration(age(thing))} ago" if thing.last_event_s else ""]
    line = (f"[{STATE_STYLE[thing.state]}]{thing.state.value:9}[/] [bold]{escape(thing.run_id)}[/]  "
            f"{escape(thing.host)}  {escape('  '.join(f for f in facts if f))}")
    if thing.state in (RunState.FAILED, RunState.LOST):
        last_words = thing.error or "\n  ".join(thing.log_tail.strip().splitlines()[-6:])
        line += f"\n  [red]{exit_words(thing.exit_code)}[/]  {escape(last_words)}"
        line += f"\n  [bold]-> inv logs --host {escape(thing.host)}[/]"
    return line


@shown.register
def _(thing: RunStatus) -> RenderableType:
    return Group(shown(thing.run), *(f"  evaluation  {evaluation_line(e)}" for e in thing.evaluations))


@rows.register
def _(thing: Launched) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: RunView) -> list[dict[str, Any]]:
    return [thing.to_json()]


@rows.register
def _(thing: RunStatus) -> list[dict[str, Any]]:
    return [{**thing.run.to_json(), "evaluations": [e.to_json() for e in thing.evaluations]}]
