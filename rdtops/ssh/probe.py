"""Probe: a read-only command and a pure function that parses its output. Many probes share one round trip, also those
of independent callers: `together` runs the callers side by side and collects their probes."""

from __future__ import annotations

import base64
import contextvars
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rdtops.errors import CommandFailed
from rdtops.hostlib import fields
from rdtops.on_host import prober
from rdtops.ssh import bundle

if TYPE_CHECKING:
    from rdtops.ssh.connection import Connection
    from rdtops.ssh.hosts import Host

T = TypeVar("T")

PATIENCE_S = 0.1  # a round trip waits so long for slower callers; they get the next one


@dataclass(frozen=True)
class Output:
    """The output of a probe's command. `code` is None when it ran into its time limit."""

    code: int | None
    out: str
    err: str
    seconds: float = 0.0

    @property
    def timed_out(self) -> bool:
        return self.code is None

    @property
    def excerpt(self) -> str:
        """One line of the output, to quote in a check result."""
        text = " ".join((self.err.strip() or self.out.strip() or "(no output)").split())
        return text if len(text) <= 200 else text[:197] + "..."


@dataclass(frozen=True)
class Probe(Generic[T]):
    """A command and its parser. `shell` must only read; `parse` gets its Output and raises ValueError when it is
    invalid. `stdin` must fit into a pipe (64 KiB)."""

    name: str
    shell: str
    parse: Callable[[Output], T]
    timeout_s: float = 20.0
    stdin: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A value, or None and the reason why there is none."""

    value: T | None
    output: Output
    problem: str = ""


def program_probe(name: str, host: Host, program: ModuleType, request: Mapping[str, Any],
                  parse: Callable[[Output], T], timeout_s: float = 20.0) -> Probe[T]:
    """Return a probe that runs a host program: one JSON line in, one out."""
    return Probe(name, bundle.line(host.python), parse, timeout_s, bundle.packed_request(program, request))


def ask(connection: Connection, probes: Iterable[Probe[Any]]) -> dict[str, Answer[Any]]:
    """Run all probes on the host in one round trip, each with its own time limit. Within `together` the round trip is
    shared with the other callers."""
    asked = {p.name: p for p in probes}
    trips = _trips.get()
    shared = trips is not None and trips.connection is connection
    outputs = trips.outputs(asked) if trips and shared else _trip(connection, asked)
    return {name: _answer(probe, outputs[name]) for name, probe in asked.items()}


def together(connection: Connection, works: Sequence[Callable[[], T]],
             seconds: dict[str, float] | None = None) -> list[T]:
    """Run each of `works` in its own thread and send their probes together, in as many round trips as the one that asks
    most often needs. Raise the exception of a round trip, else that of the first work that failed. Write into `seconds`
    how long each probe took on the host."""
    return _Trips(connection, works, {} if seconds is None else seconds).run()


class _Trips:
    """The round trips of `together`. The caller's thread makes them, so that Ctrl-C ends them; each work waits in its
    own thread for its answers."""

    def __init__(self, connection: Connection, works: Sequence[Callable[[], Any]],
                 seconds: dict[str, float]) -> None:
        self.connection = connection
        self._seconds = seconds
        self._works = works
        self._change = threading.Condition()
        self._left = len(works)
        self._waiting: list[_Question] = []
        self._results: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}
        self._over: BaseException | None = None

    def run(self) -> list[Any]:
        for number, work in enumerate(self._works):
            threading.Thread(target=self._work, args=(number, work), daemon=True).start()
        try:
            while questions := self._gathered():
                self._answer(questions)
        except BaseException as error:
            self._end(error)
            raise
        for number in sorted(self._errors):
            raise self._errors[number]
        return [self._results[number] for number in range(len(self._works))]

    def outputs(self, probes: Mapping[str, Probe[Any]]) -> Mapping[str, Output]:
        """Add the probes of a work to the next round trip and wait for their outputs. Called in the work's thread."""
        question = _Question(probes)
        with self._change:
            if self._over is None:
                self._waiting.append(question)
                self._change.notify_all()
                self._change.wait_for(lambda: question.outputs is not None or self._over is not None)
            if question.outputs is None:
                assert self._over is not None
                raise self._over
        return question.outputs

    def _gathered(self) -> list[_Question]:
        """Return the questions of the next round trip; none when all works have ended."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or not self._left)
            self._change.wait_for(lambda: len(self._waiting) >= self._left, PATIENCE_S)
            questions, self._waiting = self._waiting, []
        return questions

    def _answer(self, questions: Sequence[_Question]) -> None:
        """Make one round trip. Rename probes that have the same name, for the request only."""
        asked: dict[str, Probe[Any]] = {}
        places: list[dict[str, str]] = []
        for number, question in enumerate(questions):
            places.append({name: name if name not in asked else f"{name}#{number}" for name in question.probes})
            asked.update({place: question.probes[name] for name, place in places[-1].items()})
        outputs = _trip(self.connection, asked)
        self._seconds.update({name: output.seconds for name, output in outputs.items()})
        with self._change:
            for question, place in zip(questions, places, strict=True):
                question.outputs = {name: outputs[p] for name, p in place.items()}
            self._change.notify_all()

    def _work(self, number: int, work: Callable[[], Any]) -> None:
        _trips.set(self)
        try:
            self._results[number] = work()
        except BaseException as error:
            self._errors[number] = error
        with self._change:
            self._left -= 1
            self._change.notify_all()

    def _end(self, error: BaseException) -> None:
        with self._change:
            self._over = error
            self._change.notify_all()


@dataclass(eq=False)
class _Question:
    probes: Mapping[str, Probe[Any]]
    outputs: Mapping[str, Output] | None = None


_trips: contextvars.ContextVar[_Trips | None] = contextvars.ContextVar("trips", default=None)


def _trip(connection: Connection, probes: Mapping[str, Probe[Any]]) -> dict[str, Output]:
    """Run the prober once."""
    request = {"probes": {name: {"shell": p.shell, "timeout_s": p.timeout_s,
                                 **({"stdin": base64.b64encode(p.stdin).decode()} if p.stdin else {})}
                          for name, p in probes.items()}}
    longest_s = max((p.timeout_s for p in probes.values()), default=0.0)
    answers = connection.call(prober, request, timeout_s=longest_s + 20)
    try:
        return {name: _output(answers[name]) for name in probes}
    except ValueError as error:
        raise CommandFailed(f"{connection.host.name}: the answer of the prober program is invalid: {error}") from None


def _output(answer: object) -> Output:
    """Parse the output of a probe. Raise ValueError."""
    row = fields.table(answer)
    code, out, err, seconds = row.get("code"), row.get("out"), row.get("err"), fields.number(row.get("seconds"))
    if not isinstance(out, str) or not isinstance(err, str) or max(len(out), len(err)) > prober.LIMIT:
        raise ValueError("no output, or too much of it")
    if seconds is None or (code is not None and fields.whole(code) is None):
        raise ValueError("no exit code, or no time")
    return Output(code, out, err, seconds)


def _answer(probe: Probe[T], output: Output) -> Answer[T]:
    if output.timed_out:
        return Answer(None, output, f"no answer within {probe.timeout_s:g} s")
    try:
        return Answer(probe.parse(output), output)
    except Exception as error:  # a parser reads what a host printed: any error is due to that output
        return Answer(None, output, f"{error or type(error).__name__} (exit {output.code}: {output.excerpt})")
