"""Journal output: events of the Journal, and the plugins' results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from rdtops.contract.journal import Event
from rdtops.runs.records import HookRecord
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import clock, duration, heldout_words, size, speed


@dataclass(frozen=True)
class EventOutput(WorkflowOutput):
    """An event of a watched run, and the plugins' results."""

    event: Event
    max_steps: int
    records: tuple[HookRecord, ...]

    def __rich__(self) -> RenderableType:
        results = (recorded(r) for r in self.records if r.value or r.error)
        line = styled("{}  {}", clock(self.event.time_s), words_of(self.event, self.max_steps))
        return Text("\n           ").join([line, *results])

    def to_json(self) -> list[dict[str, Any]]:
        """Return the event as in the Journal."""
        return [{"kind": self.event.kind, "time_s": self.event.time_s, **self.event.data}]


def words_of(event: Event, max_steps: int) -> str:
    """Return an event of the Journal as one line; of an unknown kind, its fields."""
    words = WORDS.get(event.kind)
    try:
        text = words(event.data) if words else ""
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        text = ""  # an event of another version, or an invalid one
    if event.kind == "step" and text:
        return text.replace(" of ?", f" of {max_steps}", 1)
    return text or f"{event.kind}  " + "  ".join(f"{k} {_value(v)}" for k, v in event.data.items())


def _value(value: object) -> str:
    try:
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    except (ValueError, RecursionError):  # a number or a nesting too large to format
        return "?"


def _scheduled(d: dict[str, Any]) -> str:
    again = f", requeued {d['restarts']} times" if d.get("restarts") else ""
    return f"job {d.get('job')} of {d.get('launcher')} begins on {d.get('nodes')}{again}"


def _step(d: dict[str, Any]) -> str:
    return (f"step {d['step']:>6} of ?  loss {d['loss']:.4f}  lr {d.get('learning_rate', 0):.1e}  "
            f"{speed(d.get('samples_per_s'), d.get('mfu'))}  {duration(d.get('eta_s'))} to go")


def _checkpoint(d: dict[str, Any]) -> str:
    heldout = d.get("heldout_loss")
    return (f"checkpoint {d['name']}  {size(d['size_bytes'])}  {d['digest']}"
            + ("" if heldout is None else f"  validation loss {heldout_words(heldout)}"))


def _started(d: dict[str, Any]) -> str:
    resumed = d.get("resumed_from_step")
    return (f"training on {d.get('world_size')} x {d.get('device')}, {d.get('parameters', 0) / 1e6:.1f} M parameters"
            + (f", resumed from step {resumed}" if resumed else ""))


def _attempt(d: dict[str, Any]) -> str:
    checkpointing = ", with gradient checkpointing" if d.get("gradient_checkpointing") is True else ""
    return (f"attempt {d['attempt']}: micro-batches of {d['batch_size_per_process']}, "
            f"{d['gradient_accumulation_steps']} per step and process{checkpointing}")


def _attempt_ended(d: dict[str, Any]) -> str:
    code = "no exit code" if d.get("exit_code") is None else f"exit {d['exit_code']}"
    wait_s = d.get("restart_in_s")
    following = "" if wait_s is None else f"; restarting in {duration(wait_s)}"
    return f"attempt {d['attempt']} ended with {code}: {d['cause']}: {d['summary']}{following}"


def _stuck(d: dict[str, Any]) -> str:
    ranks = ", ".join(f"{r['rank']} ({r['state']})" for r in d["ranks"])
    return (f"no event for {duration(d['silent_s'])}: the stacks of ranks {ranks} are written to train.log before they "
            f"are killed")


def _silent(d: dict[str, Any]) -> str:
    ranks = ", ".join(f"{r['rank']} ({r['state']})" for r in d["ranks"])
    where = f"the stacks of ranks {ranks} are in train.log" if ranks else "no rank is running"
    return f"nothing was written for {duration(d['silent_s'])}, and there is no step yet: {where}"


def _eval_started(d: dict[str, Any]) -> str:
    before = f", {d['done_before']} of them done before" if d.get("done_before") else ""
    return f"evaluating {d['checkpoint']} on {d['benchmark']}: {d['trials']} trials of {d['tasks']} tasks{before}"


def _eval_finished(d: dict[str, Any]) -> str:
    errors = f", {d['errors']} errors" if d.get("errors") else ""
    return f"evaluated {d['checkpoint']} on {d['benchmark']}: {d['successes']} of {d['trials']} succeeded{errors}"


WORDS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "scheduled": _scheduled,
    "requeued": lambda d: f"job {d.get('job')} reached its time limit; requeued to resume from its checkpoint",
    "launched": lambda d: f"launched by {d.get('launcher')}, process {d.get('pid')}",
    "attempt": _attempt,
    "attempt_ended": _attempt_ended,
    "silent": _silent,
    "heard": lambda d: f"attempt {d['attempt']} writes again",
    "stuck": _stuck,
    "started": _started,
    "step": _step,
    "sample": lambda d: f"step {d['step']}: mean squared action error {d['action_mse']:.4g}",
    "heldout": lambda d: f"step {d['step']}: validation loss {heldout_words(d['loss'])}",
    "checkpoint": _checkpoint,
    "checkpoint_deleted": lambda d: f"deleted {d['name']}: no retention setting keeps it",
    "trial": lambda d: (f"{d['outcome']:7}  trial {d['trial']:>2}  {d['steps']:>3} steps  {d['task']}  "
                        f"{d.get('error', '')}"),
    "eval_started": _eval_started,
    "eval_finished": _eval_finished,
    "checkpoint_failed": lambda d: f"the checkpoint of step {d['step']} was not saved: {d['error']}",
    "stop_requested": lambda d: f"asked to save and stop, by {d['by']}",
    "stopped": lambda d: f"stopped at step {d['step']} on {d['signal']}, saved",
    "failed": lambda d: (f"failed at step {d['step']}" if d.get("step") else "failed") + f": {d['error']}",
    "warning": lambda d: f"warning: {d['message']}",
    "eval_failed": lambda d: f"the evaluation failed: {d['error']}",
    "ended": lambda d: f"the run has ended: {d['state']}",  # of watching, not of a Journal
    "finished": lambda d: f"finished at step {d.get('step')}, loss {d.get('loss') or 0:.4f}",
}


def recorded(record: HookRecord) -> Text:
    if record.error:
        return styled("[red]{}: {}[/]", record.plugin, record.error)
    return styled("[dim]{}: {}[/]", record.plugin, "  ".join(f"{k} {v}" for k, v in record.value.items()))
