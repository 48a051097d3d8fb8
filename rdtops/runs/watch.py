"""Watch: follow a run's Journal. after_checkpoint is called for every checkpoint and after_eval for every finished
evaluation, once and in order, and after_run for its end.

The cursor is kept on this laptop (rdtops.runs.records) and moves only after an event was handled, so that a laptop
that slept, or was killed in between, catches up. Which plugin has handled which checkpoint is remembered by the
checkpoint's digest, an evaluation by its report's: an event that is read twice is handled once. Two commands on one
laptop take turns, so they never handle the same event at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rdtops import answers
from rdtops.contract.journal import Event, parse
from rdtops.contract.run import Checkpoint, RunState
from rdtops.errors import ConnectionLost, RunError, Unreachable
from rdtops.hostlib.names import BadName
from rdtops.plugging.bounded import raised
from rdtops.plugging.registry import Call, Registry
from rdtops.runs import overview
from rdtops.runs.overview import RunView
from rdtops.runs.poller import LOST, Backoff, Chunk, Cursor, Question, RunPoller, Update
from rdtops.runs.records import HookRecord, RunRecords
from rdtops.ssh.connection import Connection

POLL_S = 1.0
JOURNAL = "journal.jsonl"
STEPS = 2000  # step events of a chunk of the Journal; other events all come
CHUNK_BYTES = 1 << 23
LOOKS = 256  # chunks, 2 GiB of a Journal; a longer one is treated as broken

Seen = tuple[Event, list[HookRecord]]


@dataclass(frozen=True)
class Look:
    """The result of one call about a run, and the plugins' records of it."""

    update: Update
    events: tuple[Seen, ...]  # each with the plugins' records
    more: bool  # the next look brings more at once

    @property
    def run(self) -> RunView:
        return self.update.run


class Watcher:
    """Polls one run, and calls the plugins for what is new."""

    def __init__(self, poller: RunPoller, registry: Registry, run: RunView,
                 say: Callable[[str], None] | None = None) -> None:
        """Prepare to poll `run`. `say` is called once when records cannot be kept."""
        self.poller, self.registry, self.run = poller, registry, run
        self.records = RunRecords(run.host, run.run_id)
        self._say = say
        self._at = self.records.cursor
        self._seen: list[Seen] = []  # handled, but not returned yet because the connection was lost then

    def history(self) -> list[Event]:
        """Return the events that were handled before; of very many steps a part. Empty when the Journal was replaced
        since: then all of it is new."""
        seen, at = self._at, Cursor()
        current = self._chunk(Question(seen, limit=0)).behind
        if current.offset != seen.offset or (seen.inode and current.inode != seen.inode):
            return []
        events: list[Event] = []
        for _ in range(LOOKS):
            if at.offset >= seen.offset:
                break
            chunk = self._chunk(Question(at, steps=STEPS, limit=min(CHUNK_BYTES, seen.offset - at.offset)))
            if chunk.behind.offset <= at.offset:
                break
            events += [event for line in chunk.lines for event in parse(line.content)[0]]
            at = chunk.behind
        return events

    def look(self, others: Mapping[str, Question] | None = None, *, gpus: bool = False) -> Look:
        """Make one call to the host; `others`: more files of the run folder. Raises one of poller.LOST; the next look
        continues where this one was."""
        question = Question(self._at, steps=STEPS, limit=CHUNK_BYTES)
        update = self.poller.poll(self.run.run_id, {JOURNAL: question, **(others or {})}, gpus=gpus)
        chunk = update.files[JOURNAL]
        for line in chunk.lines:
            self._seen += [(event, self._act(event, line.behind)) for event in parse(line.content)[0]]
            self._at = line.behind
        self.run, self._at = update.run, chunk.behind
        self.records.advance(self._at)
        self._warn()
        seen, self._seen = tuple(self._seen), []
        return Look(update, seen, chunk.more and chunk.behind != question.cursor)  # else it would be polled for ever

    def act_on_end(self) -> list[HookRecord]:
        with self.records.alone():
            records = _act_on_end(self.poller.connection, self.registry, self.run, self.records)
        self._warn()
        return records

    def _warn(self) -> None:
        if self.records.problem and self._say:
            self._say(self.records.problem)
            self._say = None

    def _chunk(self, question: Question) -> Chunk:
        return self.poller.poll(self.run.run_id, {JOURNAL: question}).files[JOURNAL]

    def _act(self, event: Event, behind: Cursor) -> list[HookRecord]:
        if event.kind in ("launched", "started"):
            self.records.started(event.time_s)
        if event.kind not in ("checkpoint", "eval_finished"):
            return []
        with self.records.alone():
            records = _act(self.poller.connection, self.registry, self.run, event, self.records)
            self.records.advance(behind)
        return records


def catch_up(connection: Connection, registry: Registry, run: RunView,
             say: Callable[[str], None] | None = None) -> list[HookRecord]:
    """Handle all events of the Journal since the cursor, and return the plugins' records; `say` reports what cannot be
    recorded. Raises RunError for an endless Journal."""
    made: list[HookRecord] = []
    with RunPoller(connection) as poller:
        watcher = Watcher(poller, registry, run, say)
        for _ in range(LOOKS):
            look = watcher.look()
            made += [record for _, records in look.events for record in records]
            if not look.more:
                return made + watcher.act_on_end()
    raise RunError(f"{run.host}: the Journal of {run.run_id} has no end",
                   remedy=f"ssh {run.host} ls -l {overview.paths(connection, run).journal}   # check its size")


def follow(connection: Connection, registry: Registry, run_id: str, *, from_start: bool = False,
           say: Callable[[str], None] | None = None,
           ended: Callable[[], bool] | None = None) -> Iterator[Seen]:
    """Yield each event with the plugins' records of it, until the run ends, or until `ended` is true. A lost connection
    is made again, without effect on the training. With `from_start` the events that were handled before come too, and
    are not handled again; of very many steps a part. `say` reports lost connections and what cannot be recorded."""
    backoff = Backoff(say or (lambda _: None), POLL_S)
    with RunPoller(connection) as poller:
        watcher = Watcher(poller, registry, overview.find(connection, run_id), say)
        is_shown = not from_start
        while True:
            try:
                if not is_shown:
                    past = watcher.history()
                    is_shown = True
                    yield from ((event, []) for event in past)
                is_over = ended() if ended else False  # before the Journal is read: an ended job has written it all
                look = watcher.look()
                yield from look.events
                if look.run.problem and look.run.state is RunState.UNKNOWN:  # it would never be seen to end
                    raise RunError(f"{look.run.host}: {run_id} cannot be followed: {look.run.problem}",
                                   remedy=f"inv logs --host {look.run.host} --run {run_id}")
                if (is_over or (ended is None and look.run.state.ended)) and not look.more:
                    if records := watcher.act_on_end():
                        yield Event("ended", look.run.last_event_s, {"state": look.run.state.value}), records
                    return
            except LOST as error:
                time.sleep(backoff.lost(error))
                continue
            backoff.reconnected()
            if not look.more:
                time.sleep(POLL_S)


def _act(connection: Connection, registry: Registry, run: RunView, event: Event,
         records: RunRecords) -> list[HookRecord]:
    if run.spec is None:
        return []
    paths = overview.paths(connection, run)
    try:
        about = (answers.checkpoint_event if event.kind == "checkpoint" else answers.evaluation_event)(event, paths)
    except BadName as error:  # valid JSON, but not written by the trainer
        return [HookRecord("watch", "rdtops", event.kind, "", 0.0, error=f"unreadable {event.kind} event: {error}")]
    if isinstance(about, Checkpoint):
        return _fire(connection, registry, "after_checkpoint", records, about.name, about.digest, run=run.spec,
                     checkpoint=about)
    return _fire(connection, registry, "after_eval", records, about.name, about.digest, run=run.spec, evaluation=about)


def _act_on_end(connection: Connection, registry: Registry, run: RunView, records: RunRecords) -> list[HookRecord]:
    """Call after_run once, even for a lost run whose exit code came later."""
    if run.spec is None or not run.state.ended:
        return []
    ends = [f"{state.value}@{records.start}" for state in RunState]
    todo = Registry([p for p in registry.loaded if not any(records.knows(p.name, end) for end in ends)])
    return _fire(connection, todo, "after_run", records, run.state.value, f"{run.state.value}@{records.start}",
                 run=run.spec, end=run.end)


def _fire(connection: Connection, registry: Registry, hook: str, records: RunRecords, about: str, digest: str,
          **arguments: Any) -> list[HookRecord]:
    """Call `hook` of the plugins that have no record of `digest` yet, and record what they return."""
    todo = Registry([p for p in registry.loaded if not records.knows(p.name, digest)])
    made = []
    for call in todo.call(hook, host=connection.host, connection=connection, **arguments):
        if isinstance(call.error, (ConnectionLost, Unreachable)):
            raise call.error  # the connection failed, not the plugin: the event is read again
        record = HookRecord(hook, call.plugin, about, digest, round(call.seconds, 3), **_outcome(call))
        records.add(record)
        made.append(record)
    return made


def _outcome(call: Call) -> dict[str, Any]:
    """Return what a call adds to its record."""
    if call.error is not None:
        return {"error": raised(call.error)}
    if call.value is not None and not isinstance(call.value, Mapping):
        return {"error": f"returned {call.value!r:.100}, not a mapping"}
    return {"value": dict(call.value or {})}
