"""News: what became of a run and what its files hold since one last looked. One call to the host a look, only new bytes
travel, and nothing is read twice or left out whatever happened to link and files in between."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

from rdtops.contract import fields, names
from rdtops.contract.run import RunPaths
from rdtops.errors import CommandFailed, CommandTimeout, ConnectionLost, RemoteError, Unreachable
from rdtops.launcher import JobState
from rdtops.ops import answers, jobs, runs, runs_on_host
from rdtops.ops.answers import Gpu
from rdtops.ops.runs import RunView
from rdtops.remote.connection import Answer, Connection
from rdtops.remote.far import tails
from rdtops.remote.far.entries import Problem
from rdtops.remote.far.wire import Stalled, Wire
from rdtops.remote.stream import Stream

LOST = (ConnectionLost, Unreachable, CommandTimeout)  # what trying again may cure
ANSWER_S = 30.0
JOB_POLL_S = 5.0  # so seldom is a scheduler asked: it is everybody's
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Cursor:
    """Up to where a growing file was read. The mark is a digest of the bytes before the offset; inode 0 and no mark, as
    written before there were any: whichever file has that name."""

    inode: int = 0
    offset: int = 0
    mark: str = ""

    @property
    def words(self) -> list[Any]:
        return [self.inode, self.offset, self.mark]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Cursor:
        """Raises ValueError."""
        values = fields.loads(text)
        inode, mark = (values.get("inode", 0), values.get("mark", "")) if isinstance(values, dict) else (0, "")
        found = [fields.whole(inode), fields.whole(values.get("offset", 0) if isinstance(values, dict) else values)]
        if not isinstance(mark, str) or any(number is None or number < 0 for number in found):
            raise ValueError(f"not a cursor: {names.quoted(text)}")
        return cls(found[0] or 0, found[1] or 0, mark)


@dataclass(frozen=True)
class Question:
    """What is wanted of a file. `last_lines` (not -1): so many from its end; `steps` (not 0): about so many of a
    Journal's step events of each piece, spread evenly; `ignored`: beginnings of lines that need not travel."""

    cursor: Cursor = Cursor()
    last_lines: int = -1
    steps: int = 0
    limit: int = 1 << 20
    ignored: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cursor": self.cursor.words}


@dataclass(frozen=True)
class Line:
    """A line with its newline, and the cursor behind it."""

    content: bytes
    behind: Cursor


@dataclass(frozen=True)
class Piece:
    lines: tuple[Line, ...]
    behind: Cursor  # all of it, what was left out too
    rest: str  # of a line that has no end yet
    more: bool  # there is more to be had at once


@dataclass(frozen=True)
class News:
    run: RunView
    files: Mapping[str, Piece]  # path below the run folder -> what is new in it
    gpus: tuple[Gpu, ...]


class Newsroom:
    """Asks about the runs of one host, through one program there that stays as long as it is used."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._stream: Stream | None = None
        self._jobs: dict[str, tuple[float, JobState | None]] = {}  # of each run: when it was asked for, and the answer
        self._configs: dict[str, str] = {}  # config.json of each run, which need not travel twice

    def __enter__(self) -> Newsroom:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def news(self, run_id: str, files: Mapping[str, Question], *, gpus: bool = False) -> News:
        """Raises one of LOST when the host cannot be asked."""
        config = self._configs.get(run_id, "")
        answer = self._ask({"op": "news", "workspace": self.connection.workspace, "run_id": run_id, "gpus": gpus,
                            "files": {path: question.to_json() for path, question in files.items()},
                            "known": hashlib.md5(config.encode()).hexdigest()})
        host = self.connection.host.name
        facts = answers.run(host, answer.get("run"))
        if facts.run_id != run_id:
            raise RemoteError(f"{host}: asked about {run_id}, and told of {facts.run_id}")
        facts = replace(facts, config=config) if facts.config is None else facts
        self._configs[run_id] = facts.config or ""
        cards = answers.gpus(answer)
        return News(runs.view(host, facts, cards, self._job(run_id)), self._pieces(answer["files"], files), cards)

    def gpus(self) -> tuple[tuple[Gpu, ...], str]:
        """Those of the host, and what else nvidia-smi says. Raises one of LOST."""
        answer = self._ask({"op": "gpus"})
        return answers.gpus(answer), answers.gpu_warning(answer)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.__exit__()
            self._stream = None

    def _pieces(self, found: object, wanted: Iterable[str]) -> dict[str, Piece]:
        """Of the files that were asked for, and of no other."""
        try:
            return {path: _piece(fields.table(found).get(path)) for path in wanted}
        except ValueError as error:
            raise CommandFailed(f"{self.connection.host.name}: {error}") from None

    def _job(self, run_id: str) -> JobState | None:
        """What a cluster's scheduler says of the run, which is not asked every second."""
        asked_s, state = self._jobs.get(run_id, (-JOB_POLL_S, None))
        if state is None or time.monotonic() > asked_s + JOB_POLL_S:
            job = jobs.of_run(RunPaths(self.connection.workspace, run_id))
            state = jobs.told(self.connection, [job]).get(run_id)
            self._jobs[run_id] = time.monotonic(), state
        return state

    def _ask(self, request: dict[str, Any]) -> Answer:
        request["shrunk"] = True
        try:
            if self._stream is None:
                self._stream = self.connection.far(runs_on_host, request, silence_s=ANSWER_S)
            else:
                self._stream.write(json.dumps(request).encode() + b"\n")
            return self._answer(self._stream.wire)
        except BaseException:
            self.close()
            raise

    def _answer(self, wire: Wire) -> Answer:
        host = self.connection.host.name
        try:
            return Answer.of(f"{host}: the answer of our program there", tails.grown(wire.hear()["shrunk"]))
        except Stalled as problem:
            raise CommandTimeout(f"{host}: {problem.reason}") from None
        except (Problem, ValueError) as problem:
            said = problem.reason if isinstance(problem, Problem) else problem
            raise CommandFailed(f"{host}: our program there gave no answer: {said}") from None


def _piece(found: object) -> Piece:
    """Raises ValueError."""
    piece = fields.table(found)
    cursor, rows = piece.get("cursor"), piece.get("lines")
    if not isinstance(cursor, list) or not isinstance(rows, list):
        raise ValueError("its answer has no piece of a file")
    inode, offset, mark = (*cursor, None, None, None)[:3]
    behind = Cursor(fields.whole(inode) or 0, fields.whole(offset) or 0, fields.text(mark))
    try:
        lines = tuple(Line(line, Cursor(behind.inode, offset, tails.mark_of(line)))
                      for offset, line in tails.lines_of(rows))
    except (TypeError, AttributeError, OverflowError):
        raise ValueError("its answer has no lines of a file") from None
    return Piece(lines, behind, fields.text(piece.get("rest")), piece.get("more") is True)


class Patience:
    """How long to wait until a link that was cut is tried again: longer each time, up to LONGEST_PAUSE_S."""

    def __init__(self, say: Callable[[str], None], pause_s: float = FIRST_PAUSE_S) -> None:
        self._say = say
        self._first_s = self._pause_s = pause_s
        self._lost_s = 0.0

    def lost(self, error: Exception) -> float:
        """Say what happened. Returns the seconds to wait."""
        self._lost_s = self._lost_s or time.monotonic()
        pause_s, self._pause_s = self._pause_s, min(LONGEST_PAUSE_S, self._pause_s * 2)
        said = getattr(error, "message", str(error)).partition("\n")[0]
        self._say(f"{said}; the run goes on there, trying again in {pause_s:.0f} s")
        return pause_s

    def reached(self) -> None:
        if self._lost_s:
            self._say(f"reached again after {time.monotonic() - self._lost_s:.0f} s; nothing is left out")
        self._lost_s, self._pause_s = 0.0, self._first_s


def log_lines(newsroom: Newsroom, run_id: str, path: str, *, last_lines: int, patience: Patience, poll_s: float,
              ended: Callable[[], bool] | None = None) -> Iterator[bytes]:
    """The whole lines of a log as they come, several at a time, until the run (or what `ended` asks about) has ended.
    At that end a line that was never finished comes as it is."""
    question = Question(last_lines=last_lines)
    while True:
        try:
            is_over = ended() if ended else False  # before the file: what ended has written its last line
            news = newsroom.news(run_id, {path: question})
            is_over = is_over if ended else news.run.state.ended
        except LOST as error:
            time.sleep(patience.lost(error))
            continue
        patience.reached()
        piece = news.files[path]
        if piece.lines:
            yield b"".join(line.content for line in piece.lines)
        question = Question(piece.behind)
        if piece.more and piece.lines:
            continue
        if is_over:
            if piece.rest:
                yield piece.rest.encode()
            return
        time.sleep(poll_s)
