"""Watch: follow a run's Journal. after_checkpoint fires for every checkpoint and after_eval for every finished
evaluation, once and in order, and after_run for its end.

The cursor is kept on this laptop (rdtops.ops.records) and moves on only after an event was acted upon, so that a
laptop that slept, or was killed in between, catches up. Which plugin has seen which checkpoint is remembered by the
checkpoint's digest, an evaluation by its report's: an event that is read twice does nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rdtops.contract.evaluation import Evaluation
from rdtops.contract.journal import Event, parse
from rdtops.contract.run import Checkpoint, RunPaths
from rdtops.errors import ConnectionLost, Unreachable
from rdtops.ops import runs
from rdtops.ops.records import HookRecord, RunRecords
from rdtops.ops.registry import Call, Registry
from rdtops.ops.runs import RunView
from rdtops.remote.connection import Connection

POLL_S = 1.0


def catch_up(connection: Connection, registry: Registry, run: RunView) -> list[HookRecord]:
    """Act upon everything the Journal holds since the cursor. Returns what the plugins said."""
    said = [record for _, records in _unseen(connection, registry, run) for record in records]
    return said + _act_on_end(connection, registry, run)


def follow(connection: Connection, registry: Registry, run_id: str, *, from_start: bool = False,
           on_lost: Callable[[str], None] | None = None,
           ended: Callable[[], bool] | None = None) -> Iterator[tuple[Event, list[HookRecord]]]:
    """Yield each event with what the plugins said of it, until the run ends, or what `ended` asks about. A lost link is
    taken up again; the training does not notice. With `from_start` the events already acted upon are shown too, without
    acting again."""
    run = runs.find(connection, run_id)
    if from_start:
        yield from ((event, []) for event in _seen(connection, run))
    pause_s = POLL_S
    while True:
        try:
            run = runs.find(connection, run.run_id)  # before the journal: a run that ended has written its last line
            over = ended() if ended else run.state.ended
            yield from _unseen(connection, registry, run)
            if over:
                if said := _act_on_end(connection, registry, run):
                    yield Event("ended", run.last_event_s, {"state": run.state.value}), said
                return
            pause_s = POLL_S
        except (ConnectionLost, Unreachable) as error:
            pause_s = min(60.0, pause_s * 2)
            if on_lost:
                on_lost(f"{error.message}; the training goes on there, trying again in {pause_s:.0f} s")
        time.sleep(pause_s)


def _seen(connection: Connection, run: RunView) -> list[Event]:
    end = RunRecords(run.host, run.run_id).offset
    return [event for event, offset in _events(connection, run, 0) if offset <= end]


def _unseen(connection: Connection, registry: Registry, run: RunView) -> Iterator[tuple[Event, list[HookRecord]]]:
    records = RunRecords(run.host, run.run_id)
    offset = records.offset
    for event, behind in _events(connection, run, offset):
        said = _act(connection, registry, run, event, records)
        offset = behind
        if event.kind in ("checkpoint", "eval_finished"):
            records.advance(offset)
        elif event.kind in ("launched", "started"):
            records.started(offset)
        yield event, said
    records.advance(offset)


def _events(connection: Connection, run: RunView, offset: int) -> Iterator[tuple[Event, int]]:
    """The complete events from `offset`, each with the offset behind it."""
    path = str(runs.paths(connection, run).journal)
    while True:
        piece, size = runs.read_file(connection, path, offset)
        if size < offset:  # the journal was replaced by a shorter one: what we know of its checkpoints still holds
            offset = 0
            continue
        lines = piece[:piece.rfind(b"\n") + 1].splitlines(keepends=True)
        if not lines:
            return
        for line in lines:
            offset += len(line)
            for event in parse(line)[0]:
                yield event, offset


def _act(connection: Connection, registry: Registry, run: RunView, event: Event,
         records: RunRecords) -> list[HookRecord]:
    if run.spec is None:
        return []
    if event.kind == "checkpoint":
        name = str(event.data["name"])
        checkpoint = Checkpoint(int(event.data["step"]), name, str(runs.paths(connection, run).checkpoints / name),
                                int(event.data["size_bytes"]), str(event.data["digest"]))
        return _fire(connection, registry, "after_checkpoint", records, name, checkpoint.digest, run=run.spec,
                     checkpoint=checkpoint)
    if event.kind == "eval_finished":
        evaluation = _evaluation(event, runs.paths(connection, run))
        return _fire(connection, registry, "after_eval", records, evaluation.name, evaluation.digest, run=run.spec,
                     evaluation=evaluation)
    return []


def _evaluation(event: Event, paths: RunPaths) -> Evaluation:
    data = event.data
    report = paths.root / str(data["report"])
    return Evaluation(str(data["name"]), str(report.parent), str(report), str(data["digest"]), str(data["checkpoint"]),
                      str(data["benchmark"]), int(data["successes"]), int(data["trials"]), int(data["errors"]))


def _act_on_end(connection: Connection, registry: Registry, run: RunView) -> list[HookRecord]:
    if run.spec is None or not run.state.ended:
        return []
    records = RunRecords(run.host, run.run_id)
    return _fire(connection, registry, "after_run", records, run.state.value, f"{run.state.value}@{records.start}",
                 run=run.spec, end=run.end)


def _fire(connection: Connection, registry: Registry, hook: str, records: RunRecords, about: str, digest: str,
          **arguments: Any) -> list[HookRecord]:
    """Call `hook` of the plugins that have not spoken about `digest` yet, and record what they say."""
    todo = Registry([p for p in registry.loaded if not records.knows(p.name, digest)])
    said = []
    for call in todo.call(hook, host=connection.host, connection=connection, **arguments):
        if isinstance(call.error, (ConnectionLost, Unreachable)):
            raise call.error  # the link's fault, not the plugin's: this is read again
        record = HookRecord(hook, call.plugin, about, digest, round(call.seconds, 3), **_words(call))
        records.add(record)
        said.append(record)
    return said


def _words(call: Call) -> dict[str, Any]:
    """What a call says for the record."""
    if call.error is not None:
        return {"error": f"{type(call.error).__name__}: {call.error}"}
    if call.value is not None and not isinstance(call.value, Mapping):
        return {"error": f"answered {call.value!r:.100}, not a mapping"}
    return {"value": dict(call.value or {})}
