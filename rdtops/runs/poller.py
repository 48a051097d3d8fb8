"""Poller: poll a run for its state and what its files gained since the last call. Each poll is one call to the host,
only new bytes travel, and nothing is read twice or skipped, whatever happened to connection and files in between."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any

from rdtops import answers
from rdtops.answers import GpuUsage, HostUsage
from rdtops.contract.run import RunPaths
from rdtops.errors import CommandFailed, CommandTimeout, ConnectionLost, RemoteError, Unreachable
from rdtops.hostlib import fields, names
from rdtops.launcher import JobState
from rdtops.on_host import run_reporter, tails
from rdtops.porter.entries import Problem
from rdtops.porter.wire import Stalled, Wire
from rdtops.runs import jobs, overview
from rdtops.runs.overview import RunView
from rdtops.ssh.connection import CallAnswer, Connection
from rdtops.ssh.stream import Stream

LOST = (ConnectionLost, Unreachable, CommandTimeout)  # a retry may succeed
ANSWER_S = 30.0
JOB_POLL_S = 5.0  # between questions to a scheduler, which all users share
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Cursor:
    """The position up to which a growing file was read. The mark is a digest of the bytes before the offset; inode 0
    and no mark, as older versions wrote it: any file of that name."""

    inode: int = 0
    offset: int = 0
    mark: str = ""

    def to_list(self) -> list[Any]:
        return [self.inode, self.offset, self.mark]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Cursor:
        """Parse a cursor. Raises ValueError."""
        values = fields.loads(text)
        inode, mark = (values.get("inode", 0), values.get("mark", "")) if isinstance(values, dict) else (0, "")
        found = [fields.whole(inode), fields.whole(values.get("offset", 0) if isinstance(values, dict) else values)]
        if not isinstance(mark, str) or any(number is None or number < 0 for number in found):
            raise ValueError(f"not a cursor: {names.quoted(text)}")
        return cls(found[0] or 0, found[1] or 0, mark)


@dataclass(frozen=True)
class Question:
    """What to read of a file. `last_lines` (not -1): this many from its end; `steps` (not 0): about this many of the
    step events in each chunk of a Journal, spread evenly; `ignored`: lines with these prefixes are not sent."""

    cursor: Cursor = Cursor()
    last_lines: int = -1
    steps: int = 0
    limit: int = 1 << 20
    ignored: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cursor": self.cursor.to_list()}


@dataclass(frozen=True)
class FileLine:
    """A line with its newline, and the cursor after it."""

    content: bytes
    behind: Cursor


@dataclass(frozen=True)
class Chunk:
    """The part of a file that one call returned."""

    lines: tuple[FileLine, ...]
    behind: Cursor  # after all of it, ignored lines too
    rest: str  # the beginning of an unfinished line
    more: bool  # the next call returns more at once


@dataclass(frozen=True)
class Update:
    """What one call returned of a run."""

    run: RunView
    files: Mapping[str, Chunk]  # path below the run folder -> what is new in it
    gpus: tuple[GpuUsage, ...]
    gpu_warning: str = ""  # what nvidia-smi says beside them
    usage: HostUsage = field(default_factory=HostUsage)  # of the host, where its GPUs were asked for


class RunPoller:
    """Polls the runs of one host, through one program on the host that runs as long as it is used."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._stream: Stream | None = None
        self._jobs: dict[str, tuple[float, JobState | None]] = {}  # by run: when the scheduler was asked, answer
        self._configs: dict[str, str] = {}  # config.json of each run, sent once
        self._asking = threading.Lock()

    def __enter__(self) -> RunPoller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def poll(self, run_id: str, files: Mapping[str, Question], *, gpus: bool = False) -> Update:
        """Return the run and what is new in its files. Raises one of LOST when the host cannot be reached."""
        config = self._configs.get(run_id, "")
        answer = self._ask({"op": "news", "workspace": self.connection.workspace, "run_id": run_id, "gpus": gpus,
                            "files": {path: question.to_json() for path, question in files.items()},
                            "known": hashlib.md5(config.encode()).hexdigest()})
        host = self.connection.host.name
        facts = answers.run(host, answer.get("run"))
        if facts.run_id != run_id:
            raise RemoteError(f"{host}: the answer is about run {facts.run_id}, not about {run_id}")
        facts = replace(facts, config=config) if facts.config is None else facts
        self._configs[run_id] = facts.config or ""
        cards = answers.gpus(answer)
        return Update(overview.view(host, facts, cards, self._job(run_id)), self._chunks(answer["files"], files), cards,
                      answers.gpu_warning(answer), answers.host_usage(answer))

    def gpus(self) -> tuple[tuple[GpuUsage, ...], str]:
        """Return the GPUs of the host, and the warning of nvidia-smi. Raises one of LOST."""
        answer = self._ask({"op": "gpus"})
        return answers.gpus(answer), answers.gpu_warning(answer)

    def close(self) -> None:
        self.connection.sessions.take_back(self._give_way)
        if self._stream is not None:
            self._stream.__exit__()
            self._stream = None

    def _chunks(self, answer: object, wanted: Iterable[str]) -> dict[str, Chunk]:
        """Parse the answer for the requested files only."""
        try:
            return {path: _chunk(fields.table(answer).get(path)) for path in wanted}
        except ValueError as error:
            raise CommandFailed(f"{self.connection.host.name}: {error}") from None

    def _job(self, run_id: str) -> JobState | None:
        """Ask a cluster's scheduler about the run, at most every JOB_POLL_S."""
        asked_s, state = self._jobs.get(run_id, (-JOB_POLL_S, None))
        if state is None or time.monotonic() > asked_s + JOB_POLL_S:
            job = jobs.training_job(RunPaths(self.connection.workspace, run_id))
            state = jobs.states(self.connection, [job]).get(run_id)
            self._jobs[run_id] = time.monotonic(), state
        return state

    def _give_way(self) -> None:
        """End the program between two questions, where the host allows no more sessions; the next question starts it
        again."""
        if self._asking.acquire(blocking=False):
            try:
                self.close()
            finally:
                self._asking.release()

    def _ask(self, request: dict[str, Any]) -> CallAnswer:
        with self._asking:
            return self._asked(request)

    def _asked(self, request: dict[str, Any]) -> CallAnswer:
        request["shrunk"] = True
        try:
            if self._stream is None:
                self._stream = self.connection.far(run_reporter, request, silence_s=ANSWER_S)
                self.connection.sessions.lend(self._give_way)
            else:
                self._stream.write(json.dumps(request).encode() + b"\n")
            return self._answer(self._stream.wire)
        except BaseException:
            self.close()
            raise

    def _answer(self, wire: Wire) -> CallAnswer:
        host = self.connection.host.name
        try:
            return CallAnswer.of(f"{host}: the answer of our program on the host", tails.grown(wire.hear()["shrunk"]))
        except Stalled as problem:
            raise CommandTimeout(f"{host}: {problem.reason}") from None
        except (Problem, ValueError) as problem:
            reason = problem.reason if isinstance(problem, Problem) else problem
            raise CommandFailed(f"{host}: our program on the host gave no answer: {reason}") from None


def _chunk(answer: object) -> Chunk:
    """Parse a chunk. Raises ValueError."""
    chunk = fields.table(answer)
    cursor, rows = chunk.get("cursor"), chunk.get("lines")
    if not isinstance(cursor, list) or not isinstance(rows, list):
        raise ValueError("its answer has no chunk of a file")
    inode, offset, mark = (*cursor, None, None, None)[:3]
    behind = Cursor(fields.whole(inode) or 0, fields.whole(offset) or 0, fields.text(mark))
    try:
        lines = tuple(FileLine(line, Cursor(behind.inode, offset, tails.mark_of(line)))
                      for offset, line in tails.lines_of(rows))
    except (TypeError, AttributeError, OverflowError):
        raise ValueError("its answer has no lines of a file") from None
    return Chunk(lines, behind, fields.text(chunk.get("rest")), chunk.get("more") is True)


class Backoff:
    """Exponential backoff of reconnecting: each pause is twice as long as the last, up to LONGEST_PAUSE_S."""

    def __init__(self, say: Callable[[str], None], pause_s: float = FIRST_PAUSE_S) -> None:
        self._say = say
        self._first_s = self._pause_s = pause_s
        self._lost_s = 0.0

    def lost(self, error: Exception) -> float:
        """Report that the connection was lost, and return the seconds to wait."""
        self._lost_s = self._lost_s or time.monotonic()
        pause_s, self._pause_s = self._pause_s, min(LONGEST_PAUSE_S, self._pause_s * 2)
        reason = getattr(error, "message", str(error)).partition("\n")[0]
        self._say(f"{reason}; the run continues on the host, trying again in {pause_s:.0f} s")
        return pause_s

    def reconnected(self) -> None:
        if self._lost_s:
            self._say(f"Reconnected after {time.monotonic() - self._lost_s:.0f} s; no events were missed.")
        self._lost_s, self._pause_s = 0.0, self._first_s


def log_lines(poller: RunPoller, run_id: str, path: str, *, last_lines: int, backoff: Backoff, poll_s: float,
              ended: Callable[[], bool] | None = None) -> Iterator[bytes]:
    """Yield the complete lines of a log as they come, several at a time, until the run has ended, or `ended` is true.
    An unfinished line comes last, as it is."""
    question = Question(last_lines=last_lines)
    while True:
        try:
            is_over = ended() if ended else False  # before the file is read: an ended job has written it all
            update = poller.poll(run_id, {path: question})
            is_over = is_over if ended else update.run.state.ended
        except LOST as error:
            time.sleep(backoff.lost(error))
            continue
        backoff.reconnected()
        chunk = update.files[path]
        if chunk.lines:
            yield b"".join(line.content for line in chunk.lines)
        question = Question(chunk.behind)
        if chunk.more and chunk.lines:
            continue
        if is_over:
            if chunk.rest:
                yield chunk.rest.encode()
            return
        time.sleep(poll_s)
