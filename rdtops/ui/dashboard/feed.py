"""Feed: polls one run in its own thread. Each refresh is one call to the host. Plugins are called as in the plain
`inv watch`, but not for a run that is only read, to be laid over another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rdtops.contract.journal import Event, parse
from rdtops.errors import RdtopsError
from rdtops.plugging.registry import Registry
from rdtops.runs import watch
from rdtops.runs.overview import RunView
from rdtops.runs.poller import LOST, Backoff, Cursor, Question, RunPoller, Update
from rdtops.runs.records import HookRecord
from rdtops.runs.watch import Watcher
from rdtops.ssh.connection import Connection

LOG = "train.log"
LOG_LINES = 400
REFRESH_S = 2.0
ENDED_REFRESH_S = 15.0  # an evaluation may still write events


@dataclass(frozen=True)
class Refresh:
    """The news of a run; `problem` says why there is none, '' when the host answers."""

    host: str
    run_id: str
    latest: Update | None = None
    events: tuple[watch.Seen, ...] = ()
    log: tuple[str, ...] = ()
    problem: str = ""
    again_in_s: float = 0.0  # 0.0 after a problem: no retry
    time_s: float = field(default_factory=time.time)


@dataclass
class Feed:
    """The feed of one run; `on_update` is called from its thread. Without a registry the run is only read, and what
    plugins are to be told of it later stays as it was."""

    connect: Callable[[], Connection]
    registry: Registry | None
    run: RunView
    on_update: Callable[[Refresh], object]
    refresh_s: float = REFRESH_S
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"feed of {self.run.run_id}")
        self._thread.start()

    @property
    def is_cancelled(self) -> bool:
        return self._stop.is_set()

    def cancel(self) -> None:
        """Let a running call be the last one; its answer does not count."""
        self._stop.set()

    def stop(self) -> None:
        """Stop, and wait at most a second for a running call: the program may end then."""
        self._stop.set()
        if self._thread:
            self._thread.join(1.0)

    def _run(self) -> None:
        messages: list[str] = []
        backoff = Backoff(messages.append, self.refresh_s)
        following: _Following | _Reading | None = None
        while not self._stop.is_set():
            try:
                following = following or self._begun(RunPoller(self.connect()))
                update, pause_s = following.look(self.refresh_s)
            except LOST as error:
                pause_s = backoff.lost(error)
                self.on_update(Refresh(self.run.host, self.run.run_id, problem=messages[-1], again_in_s=pause_s))
            except RdtopsError as error:
                self.on_update(Refresh(self.run.host, self.run.run_id, problem=f"{error.message}; {error.remedy}"))
                break
            else:
                backoff.reconnected()
                self.on_update(update)
            self._stop.wait(pause_s)
        if following:
            following.poller.close()

    def _begun(self, poller: RunPoller) -> _Following | _Reading:
        return _Reading(poller, self.run) if self.registry is None else _Following(poller, self.registry, self.run)


class _Following:
    """The position of a feed in its run."""

    def __init__(self, poller: RunPoller, registry: Registry, run: RunView) -> None:
        self.poller = poller
        self.watcher = Watcher(poller, registry, run)
        self._past: list[Event] | None = None
        self._log = Question(last_lines=LOG_LINES)
        self._has_ended = False

    def look(self, refresh_s: float) -> tuple[Refresh, float]:
        """Return what is new, and the seconds to wait before the next look."""
        if self._past is None:
            self._past = self.watcher.history()
        look = self.watcher.look({LOG: self._log}, gpus=True)
        past, self._past = self._past, []
        events = (*((event, []) for event in past), *look.events, *self._end(look))
        chunk = look.update.files[LOG]
        self._log = Question(chunk.behind)
        lines = tuple(line.content.decode("utf-8", "replace").rstrip("\n") for line in chunk.lines)
        pause_s = _pause_s(look.run, refresh_s, more=look.more or chunk.more)
        return Refresh(look.run.host, look.run.run_id, look.update, events, lines, chunk.rest), pause_s

    def _end(self, look: watch.Look) -> tuple[watch.Seen, ...]:
        if not look.run.state.ended:
            self._has_ended = False  # it was resumed
            return ()
        if self._has_ended or look.more:
            return ()
        self._has_ended = True
        records: list[HookRecord] = self.watcher.act_on_end()
        return ((Event("ended", look.run.last_event_s, {"state": look.run.state.value}), records),)


class _Reading:
    """The position of a feed in the Journal of a run that is only read."""

    def __init__(self, poller: RunPoller, run: RunView) -> None:
        self.poller, self.run = poller, run
        self._behind = Cursor()

    def look(self, refresh_s: float) -> tuple[Refresh, float]:
        """Return what is new, and the seconds to wait before the next look."""
        question = Question(self._behind, steps=watch.STEPS, limit=watch.CHUNK_BYTES)
        update = self.poller.poll(self.run.run_id, {watch.JOURNAL: question})
        chunk = update.files[watch.JOURNAL]
        more, self._behind = chunk.more and chunk.behind != self._behind, chunk.behind
        events: tuple[watch.Seen, ...] = tuple((event, []) for line in chunk.lines for event in parse(line.content)[0])
        return Refresh(self.run.host, self.run.run_id, update, events), _pause_s(update.run, refresh_s, more=more)


def _pause_s(run: RunView, refresh_s: float, *, more: bool) -> float:
    return 0.0 if more else ENDED_REFRESH_S if run.state.ended else refresh_s
