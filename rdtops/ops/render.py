"""How things look: `shown(thing)` for people, `rows(thing)` for --json. Nothing here prints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from functools import singledispatch
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text as Styled

from rdtops.checks import CheckResult, Report, Status
from rdtops.contract.journal import Event
from rdtops.contract.run import RunState
from rdtops.lab.site import ServerStatus
from rdtops.ops.authoring import Written
from rdtops.ops.catalog import PluginRow
from rdtops.ops.deploy import Delivery
from rdtops.ops.evaluation import EvalLaunched, EvalView
from rdtops.ops.inquiry import NormFitted, Replayed, Stats
from rdtops.ops.repository import Drilled, Measured, Summary
from rdtops.ops.results import Fetched
from rdtops.ops.runs import RunView, age
from rdtops.ops.training import Launched
from rdtops.ops.trust import SeenKey
from rdtops.ops.workflows import CheckpointList, Deployed, Gpus, HostRow, LaunchPlan, Progressed, RunStatus, Text

SIGNS = {Status.OK: "[green]OK[/]  ", Status.WARN: "[yellow]WARN[/]", Status.FAIL: "[bold red]FAIL[/]",
         Status.SKIP: "[dim]SKIP[/]"}
STATE_STYLE = {RunState.RUNNING: "cyan", RunState.FINISHED: "green", RunState.FAILED: "bold red",
               RunState.LOST: "bold red", RunState.STOPPED: "yellow", RunState.PREPARED: "dim"}


# --- for people ---

@singledispatch
def shown(thing: Any) -> RenderableType:
    """What a person sees of a thing that a workflow yielded."""
    raise TypeError(f"nothing says how to show a {type(thing).__name__}")


@shown.register
def _(thing: Text) -> RenderableType:
    return _verbatim(thing.text.removesuffix("\n"))


@shown.register
def _(thing: HostRow) -> RenderableType:
    mark = "[bold]*[/] " if thing.host.default else "  "
    ping = f"  [green]{thing.round_trip_s * 1000:.0f} ms[/]" if thing.round_trip_s is not None else ""
    problem = f"\n    [bold red]{escape(thing.problem)}[/]" if thing.problem else ""
    return (f"{mark}[bold]{escape(thing.host.name)}[/]  {escape(thing.host.route_words)}  "
            f"[dim]{escape(thing.host.where)}  {escape(thing.host.workspace)}[/]{ping}{problem}")


@shown.register
def _(thing: SeenKey) -> RenderableType:
    return f"{escape(thing.hop.name)}  {thing.hop.known_hosts_entry}  {thing.kind}  {thing.fingerprint}  {thing.state}"


@shown.register
def _(thing: Deployed) -> RenderableType:
    table = _table(f"{'would be sent' if thing.dry_run else 'deployed'} to {thing.host}",
                   "what", "files", "sent", "bytes", "where and why")
    for delivery in thing.deliveries:
        table.add_row(escape(delivery.what), *_delivered(delivery, thing.dry_run))
    details = [line for d in thing.deliveries for line in _reasons(d)] if thing.dry_run else []
    return Group(table, *details)


def _delivered(delivery: Delivery, dry_run: bool) -> tuple[str, str, str, str]:
    where = f"[dim]{escape(delivery.target)}[/]"
    note = f"{escape(delivery.note)}\n" if delivery.note else ""
    if delivery.plan is None:
        return "", "", "", note + where
    moved = [i for i in delivery.plan.items if i.action in ("send", "resume")]
    copied = sum(i.action == "copy" for i in delivery.plan.items)
    if not note and not moved:
        note = "all there already, verified by MD5\n" if not copied else ""
    if copied:
        note += f"{copied} files taken over from the release before, on the host\n"
    sent_bytes = delivery.outcome.sent_bytes if delivery.outcome and not dry_run else delivery.plan.bytes_to_send
    return str(len(delivery.plan.items)), str(len(moved)), size(sent_bytes), note + where


def _reasons(delivery: Delivery) -> Iterable[str]:
    items = delivery.plan.items if delivery.plan else ()
    moving = [i for i in items if i.action != "skip"]
    for item in moving[:40]:
        yield (f"  {escape(delivery.what)}: {item.action:6} {escape(item.path)}  {size(item.size_bytes)}  "
               f"{escape(item.reason)}")
    if len(moving) > 40:
        yield f"  {escape(delivery.what)}: and {len(moving) - 40} more"


@shown.register
def _(thing: Report) -> RenderableType:
    table = _table(f"preflight of {thing.host}", "about", "", "check", "finding")
    for group, results in _by_group(thing.results):
        for number, result in enumerate(results):
            table.add_row("" if number else f"[bold]{escape(group)}[/]", SIGNS[result.status], escape(result.name),
                          _finding(result))
    asked = max(thing.probe_seconds.items(), key=lambda item: item[1], default=None)
    slowest = f"; slowest probe: {escape(asked[0])}, {asked[1]:.1f} s" if asked else ""
    return Group(table, _verdict(thing),
                 f"[dim]plugins that ran: {escape(', '.join(thing.plugins) or 'none')}{slowest}[/]")


def _by_group(results: Iterable[CheckResult]) -> list[tuple[str, list[CheckResult]]]:
    """Groups in the order in which they first come."""
    found: dict[str, list[CheckResult]] = {}
    for result in results:
        found.setdefault(result.group or result.source or "rdtops", []).append(result)
    return list(found.items())


def _finding(result: CheckResult) -> str:
    """What is wrong has what was seen and what to type below it."""
    if result.status not in (Status.WARN, Status.FAIL):
        return f"[dim]{escape(result.summary)}[/]"
    lines = [escape(result.summary), f"[dim]{escape(result.evidence)}[/]" if result.evidence else "",
             f"[bold]-> {escape(result.remedy)}[/]" if result.remedy else ""]
    return "\n".join(line for line in lines if line)


def _verdict(report: Report) -> str:
    """The last line, since a long table has scrolled by."""
    named = {status: ", ".join(r.name for r in report.results if r.status is status)
             for status in (Status.FAIL, Status.WARN)}
    verdict = "[green]ready to train[/]" if report.passed else "[bold red]not ready[/]"
    parts = [f"{report.count(s)} {s.value}" + (f" ({escape(named[s])})" if named.get(s) else "")
             for s in (Status.FAIL, Status.WARN, Status.OK, Status.SKIP) if report.count(s)]
    return f"{verdict}: {'; '.join(parts)}"


@shown.register
def _(thing: LaunchPlan) -> RenderableType:
    return Group(f"[bold]would be written to {escape(thing.host)}:{escape(thing.root)}[/]",
                 *(part for name, text in thing.files.items()
                   for part in (f"[dim]--- {escape(name)}[/]", _verbatim(text))))


@shown.register
def _(thing: Launched) -> RenderableType:
    how = f"resumed from {thing.resumed_from}" if thing.resumed_from else "started"
    return (f"[green]{how}[/] [bold]{escape(thing.run_id)}[/] on {escape(thing.host)}, detached in {thing.launcher}: "
            f"it goes on without this laptop\n"
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
        line += f"\n  [red]{_exit_words(thing.exit_code)}[/]  {escape(last_words)}"
        line += f"\n  [bold]-> inv logs --host {escape(thing.host)}[/]"
    return line


@shown.register
def _(thing: RunStatus) -> RenderableType:
    return Group(shown(thing.run), *(f"  evaluation  {_evaluation_line(e)}" for e in thing.evaluations))


@shown.register
def _(thing: EvalLaunched) -> RenderableType:
    notes = "".join(f"\n  [yellow]note:[/] {escape(note)}" for note in thing.notes)
    return (f"[green]started[/] [bold]{escape(thing.name)}[/] on {escape(thing.host)}, detached in {thing.launcher}: "
            f"{thing.trials} trials of {len(thing.tasks)} tasks{notes}\n"
            f"  follow it:  inv logs --eval --follow --host {thing.host}\n"
            f"  get it:     inv fetch-results --host {thing.host} --run {thing.run_id}\n"
            f"  [dim]{escape(thing.folder)}[/]")


@shown.register
def _(thing: EvalView) -> RenderableType:
    parts: list[RenderableType] = [_evaluation_line(thing)]
    if thing.report:
        parts.append(_rates(thing.report))
        parts += [f"[yellow]note:[/] {escape(note)}" for note in thing.report["notes"]]
    if thing.state in (RunState.FAILED, RunState.LOST):
        last_words = "\n  ".join(thing.log_tail.strip().splitlines()[-6:])
        parts.append(f"  [red]{_exit_words(thing.exit_code)}[/]  {escape(last_words)}\n"
                     f"  [bold]-> the same inv eval goes on where it ended; inv logs --eval --host {thing.host}[/]")
    return Group(*parts, f"[dim]{escape(thing.host)}:{escape(thing.folder)}[/]")


def _evaluation_line(view: EvalView) -> str:
    errors = f", {view.outcomes['error']} errors" if view.outcomes["error"] else ""
    of = f" of {view.planned}" if view.planned is not None else ""
    return (f"[{STATE_STYLE[view.state]}]{view.state.value:9}[/] [bold]{escape(view.name)}[/]  {view.ended_trials}{of} "
            f"trials: {view.outcomes['success']} succeeded{errors}")


def _rates(report: Mapping[str, Any]) -> Table:
    table = _table("", "success", "rate", "95 % interval", "steps", "errors", "task")
    for row in [*report["tasks"], {"language": "all", **report["total"]}]:
        rate, interval, steps = row["success_rate"], row["wilson_95"], row["mean_steps_to_success"]
        table.add_row(f"{row['successes']} of {row['trials']}", "" if rate is None else f"{100 * rate:.1f} %",
                      "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %",
                      "" if steps is None else f"{steps:.0f}", str(row["errors"] or ""), escape(row["language"]))
    return table


def _exit_words(code: int | None) -> str:
    return f"exit {code}" if code is not None else "no exit code: killed, or the host rebooted"


@shown.register
def _(thing: Progressed) -> RenderableType:
    said = "".join(f"\n           {_recorded(r)}" for r in thing.records if r.value or r.error)
    return f"{clock(thing.event.time_s)}  {escape(_words(thing.event, thing.max_steps))}{said}"


def _words(event: Event, max_steps: int) -> str:
    """An event of the Journal as one line."""
    d = event.data
    if event.kind == "step":
        return (f"step {d['step']:>6} of {max_steps}  loss {d['loss']:.4f}  lr {d.get('learning_rate', 0):.1e}  "
                f"{d.get('samples_per_s') or 0:.1f} samples/s  {duration(d.get('eta_s'))} to go")
    if event.kind == "checkpoint":
        heldout = d.get("heldout_loss")
        return (f"checkpoint {d['name']}  {size(d['size_bytes'])}  {d['digest']}"
                + ("" if heldout is None else f"  held-out loss {_heldout(heldout)}"))
    if event.kind == "launched":
        return f"launched by {d.get('launcher')}, process {d.get('pid')}"
    if event.kind == "started":
        resumed = d.get("resumed_from_step")
        return (f"training on {d.get('world_size')} x {d.get('device')}, {d.get('parameters', 0) / 1e6:.1f} M "
                "parameters" + (f", resumed from step {resumed}" if resumed else ""))
    if event.kind == "trial":
        return f"{d['outcome']:7}  trial {d['trial']:>2}  {d['steps']:>3} steps  {d['task']}  {d.get('error', '')}"
    if event.kind == "eval_started":
        before = f", {d['done_before']} of them done before" if d.get("done_before") else ""
        return f"evaluating {d['checkpoint']} on {d['benchmark']}: {d['trials']} trials of {d['tasks']} tasks{before}"
    if event.kind == "eval_finished":
        errors = f", {d['errors']} errors" if d.get("errors") else ""
        return f"evaluated {d['checkpoint']} on {d['benchmark']}: {d['successes']} of {d['trials']} succeeded{errors}"
    if event.kind == "finished":
        return f"finished at step {d.get('step')}, loss {d.get('loss') or 0:.4f}"
    return f"{event.kind}  " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in d.items())


def _heldout(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.6f}"


def _recorded(record: Any) -> str:
    if record.error:
        return f"[red]{escape(record.plugin)}: {escape(record.error)}[/]"
    said = "  ".join(f"{k} {v}" for k, v in record.value.items())
    return f"[dim]{escape(record.plugin)}: {escape(said)}[/]"


@shown.register
def _(thing: CheckpointList) -> RenderableType:
    table = _table(f"checkpoints of {thing.run.run_id} on {thing.run.host}", "", "step", "name", "size",
                   "held-out loss", "digest", "plugins")
    for row in thing.rows:
        said = "\n".join(_recorded(r) for r in row.records if r.value or r.error)
        marks = ", ".join(word for word, holds in (("best", row.best), ("latest", row.latest)) if holds)
        table.add_row(marks, str(row.checkpoint.step), row.checkpoint.name, size(row.checkpoint.size_bytes),
                      _heldout(row.checkpoint.heldout_loss), row.checkpoint.digest, said)
    unfinished = [f"[yellow]not complete, so not counted:[/] {escape(', '.join(thing.unfinished))}"]
    return Group(table, *(unfinished if thing.unfinished else []))


@shown.register
def _(thing: Gpus) -> RenderableType:
    return Group(f"[bold]{escape(thing.host)}[/]  {clock(time.time())}", _verbatim(thing.text.rstrip()))


@shown.register
def _(thing: Fetched) -> RenderableType:
    moved = (f"nothing to transfer: all {thing.files} files are here and have the same MD5" if thing.nothing_new
             else f"{thing.sent_files} of {thing.files} files, {size(thing.sent_bytes)} in {thing.seconds:.1f} s")
    where = (f"{thing.folder / 'checkpoints' / thing.checkpoint.name}  {size(thing.checkpoint.size_bytes)}, every MD5 "
             "as in its manifest" if thing.checkpoint else "none yet")
    rows = {"run": f"{thing.run.run_id}, {thing.run.state.value}, step {thing.run.step} of {thing.run.max_steps}",
            "transfer": moved, "checkpoint": where, "loss curve": str(thing.curve),
            "log": str(thing.folder / "train.log"), "journal": str(thing.folder / "journal.jsonl")}
    if thing.evaluations:
        rows["evaluations"] = "\n".join(str(thing.folder / "eval" / name) for name in thing.evaluations)
    return _grid(rows)


@shown.register
def _(thing: Replayed) -> RenderableType:
    found = thing.values
    table = _table(f"step {found['step']} of {found['run_id']} on {thing.host}, with the weights of {found['weights']}",
                   "number", "rank", "loss", "noise time", "file", "episode", "observation")
    for s in found["samples"]:
        table.add_row(str(s["number"]), str(s["rank"]), f"{s['loss']:.6f}", str(s["timestep"]), escape(s["file"]),
                      escape(s["episode"]), str(s["observation"]))
    words = {"loss of the step": repr(found["loss"]), "in the Journal": _recorded_loss(found)}
    return Group(table, _grid(words), *(escape(note) for note in found["notes"]))


def _recorded_loss(found: dict[str, Any]) -> str:
    recorded = found["recorded"]
    if recorded is None:
        return "nothing about this step"
    of = ("" if recorded["first_step"] == recorded["last_step"]
          else f", the mean of the steps {recorded['first_step']} to {recorded['last_step']}")
    other = f"; not comparable, these weights have learnt up to step {found['weights_step']}"
    return f"{recorded['loss']!r}{of}{'' if found['is_exact'] else other}"


@shown.register
def _(thing: NormFitted) -> RenderableType:
    found = thing.values
    losses = {norm: f"loss {loss:.6f}" for norm, loss in found["loss"].items()}
    margin = (f"{found['margin']:.6f} +- {found['standard_error']:.6f} over {found['samples']} samples, "
              f"{found['certainty']:.1f} standard errors")
    verdict = ("[yellow]these samples cannot tell; --samples takes more[/]" if not found["winner"]
               else f"[green]config.json says {found['stated']}, as it should[/]" if found["winner"] == found["stated"]
               else f"[bold red]config.json says {found['stated']}: set \"norm\": \"{found['winner']}\" in it[/]")
    return Group(f"[bold]{escape(thing.host)}:{escape(thing.pretrained)}[/]",
                 _grid({**losses, "better": found["better"], "by": margin}), verdict)


@shown.register
def _(thing: PluginRow) -> RenderableType:
    plugin = thing.plugin
    state = ("[dim]left out[/]" if plugin.disabled else "[bold red]broken[/]  " if plugin.problem
             else "[green]loaded[/]  " if thing.passed else "[bold red]loaded[/]  ")
    lines = [f"{state} [bold]{escape(plugin.name)}[/] {escape(plugin.version)}  {escape(plugin.summary)}",
             *(f"[bold red]{escape(problem)}[/]" for problem in thing.problems),
             f"[dim]{escape(plugin.source)}[/]"]
    if plugin.hooks:
        lines.append("hooks: " + ", ".join(plugin.hooks))
    for name, option in plugin.options.items():
        at = "".join(f"; {host}: {values[name]}" for host, values in thing.values.items() if name in values)
        lines.append(f"{escape(name)} = {option.kind.__name__}, default {escape(str(option.default))}  "
                     f"[dim]{escape(option.help)}{escape(at)}[/]")
    return "\n         ".join(lines)


@shown.register
def _(thing: Written) -> RenderableType:
    return "\n".join([*(f"[green]written[/] {escape(str(file))}" for file in thing.files),
                      *(f"  [bold]{escape(line)}[/]" for line in thing.next_lines)])


@shown.register
def _(thing: ServerStatus) -> RenderableType:
    state = "[green]up[/]  " if thing.up else "[dim]down[/]"
    process = f"process {thing.pid}, {thing.backend}" if thing.up else ""
    return f"{state} [bold]{escape(thing.name)}[/]  {thing.address}:{thing.port}  [dim]{process}[/]"


@shown.register
def _(thing: Summary) -> RenderableType:
    return Group(f"\n[bold green]{escape(thing.title)}[/]", _grid(thing.pairs))


@shown.register
def _(thing: Measured) -> RenderableType:
    verdict = "[green]holds[/]" if thing.holds else "[bold red]missed[/]"
    return f"{verdict}  {escape(thing.name)}: {thing.value:g}  [dim]goal: {escape(thing.goal)}; {escape(thing.how)}[/]"


@shown.register
def _(thing: Drilled) -> RenderableType:
    columns = [f.name for f in fields(thing.rows[0]) if f.name != "passed"] if thing.rows else []
    table = _table(thing.title, "", *(name.replace("_", " ") for name in columns))
    for row in thing.rows:
        cells = ("" if getattr(row, name) is None else escape(str(getattr(row, name))) for name in columns)
        table.add_row(SIGNS[Status.OK if getattr(row, "passed", thing.passed) else Status.FAIL], *cells)
    verdict = [f"[green]{escape(thing.verdict)}[/]"] if thing.passed and thing.verdict else []
    return Group(table, *(f"[bold red]{escape(problem)}[/]" for problem in thing.problems), *verdict)


@shown.register
def _(thing: Stats) -> RenderableType:
    found = thing.values
    state = (f"computed: {found['why']}" + ("" if found["is_written"] else "; [yellow]could not be written there[/]")
             if found["why"] else "no recomputation is needed: the MD5 of every file is unchanged, and so is the codec")
    words = {"data": f"{len(found['files'])} files, {found['episodes']} episodes, {found['steps']} steps, observations "
                     f"{' and '.join(found['observed'])} the action", "codec": found["codec"], "file": found["path"]}
    findings = [f"{SIGNS[Status.FAIL if u['is_wrong'] else Status.WARN]} {u['kind']}, {escape(u['slot'])}: "
                f"{escape(u['says'])}" for u in found["unsound"]]
    verdict = "[green]sound[/]" if thing.passed else "[bold red]not sound[/]"
    return Group(f"[bold]statistics on {escape(thing.host)}[/]", _grid(words), *findings, f"{verdict}; {state}")


# --- for --json ---

@singledispatch
def rows(thing: Any) -> list[dict[str, Any]]:
    """The same thing as JSON objects."""
    raise TypeError(f"nothing says how {type(thing).__name__} looks as JSON")


@rows.register
def _(thing: HostRow) -> list[dict[str, Any]]:
    host = thing.host
    return [{"name": host.name, "default": host.default, "route": [hop.where for hop in host.route],
             "workspace": host.workspace, "preset": host.preset, "round_trip_s": thing.round_trip_s,
             "problem": thing.problem or None}]


@rows.register
def _(thing: Deployed) -> list[dict[str, Any]]:
    return [{"host": thing.host, "what": d.what, "target": d.target, "note": d.note or None, "dry_run": thing.dry_run,
             "sent_bytes": d.outcome.sent_bytes if d.outcome else 0,
             "files": [asdict(i) for i in d.plan.items] if d.plan else []} for d in thing.deliveries]


@rows.register
def _(thing: Report) -> list[dict[str, Any]]:
    return [thing.to_json()]


@rows.register
def _(thing: Launched) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: RunView) -> list[dict[str, Any]]:
    return [thing.to_json()]


@rows.register
def _(thing: RunStatus) -> list[dict[str, Any]]:
    return [{**thing.run.to_json(), "evaluations": [e.to_json() for e in thing.evaluations]}]


@rows.register
def _(thing: EvalLaunched) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: EvalView) -> list[dict[str, Any]]:
    return [thing.to_json()]


@rows.register
def _(thing: CheckpointList) -> list[dict[str, Any]]:
    return [{"run_id": r.run_id, "host": r.host, "latest": r.latest, "best": r.best, **asdict(r.checkpoint),
             "hooks": [asdict(record) for record in r.records]} for r in thing.rows]


@rows.register
def _(thing: Gpus) -> list[dict[str, Any]]:
    return [{"host": thing.host, **row} for row in thing.rows]


@rows.register
def _(thing: Fetched) -> list[dict[str, Any]]:
    return [{"host": thing.host, "run_id": thing.run.run_id, "state": thing.run.state.value,
             "folder": str(thing.folder), "loss_curve": str(thing.curve),
             "checkpoint": asdict(thing.checkpoint) if thing.checkpoint else None,
             "evaluations": list(thing.evaluations),
             "files": thing.files, "sent_files": thing.sent_files, "sent_bytes": thing.sent_bytes}]


@rows.register
def _(thing: Replayed | NormFitted | Stats) -> list[dict[str, Any]]:
    return [{"host": thing.host, **thing.values}]


@rows.register
def _(thing: ServerStatus) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: Measured) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: Drilled) -> list[dict[str, Any]]:
    return [{**asdict(row), "passed": getattr(row, "passed", thing.passed), "problems": list(thing.problems)}
            for row in thing.rows]


@rows.register
def _(thing: PluginRow) -> list[dict[str, Any]]:
    plugin = thing.plugin
    options = [{"name": name, "kind": o.kind.__name__, "default": o.default, "help": o.help,
                "set": {host: values[name] for host, values in thing.values.items() if name in values}}
               for name, o in plugin.options.items()]
    return [{"name": plugin.name, "source": plugin.source, "version": plugin.version, "summary": plugin.summary,
             "hooks": list(plugin.hooks), "options": options, "disabled": plugin.disabled,
             "healthy": thing.passed, "problems": list(thing.problems), "problem": plugin.problem or None}]


@rows.register
def _(thing: Written) -> list[dict[str, Any]]:
    return [{"file": str(file)} for file in thing.files]


# --- words ---

def size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.2f} GB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s))


def _verbatim(text: str) -> Styled:
    """Lines as they are, whatever the width: they may be pasted."""
    return Styled(text, no_wrap=True, overflow="ignore")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    return table


def _grid(pairs: dict[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for key, value in pairs.items():
        grid.add_row(key, escape(value))
    return grid
