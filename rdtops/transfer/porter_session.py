"""Porter session: the porter on a host at the other end of a wire, and the error messages of both sides."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Protocol

from rdtops.errors import (
    CommandFailed,
    ConnectionLost,
    DigestMismatch,
    DiskFull,
    HostError,
    RdtopsError,
    TransferError,
)
from rdtops.porter import porter
from rdtops.porter.entries import Message, Problem, problem_of
from rdtops.porter.wire import Heartbeat, Wire
from rdtops.ssh.display import joined, shown, size_words
from rdtops.ssh.hosts import Host

SILENCE_S = 30.0  # the host program sends a heartbeat every 5 s
PING_S = 5.0  # for each hop, to find the one that does not answer
LISTING_BYTES = 1 << 26  # of files: a quarter of a million


class FarProgram(contextlib.AbstractContextManager["FarProgram"], Protocol):
    """A running host program, as Stream and SshProcess are."""

    @property
    def wire(self) -> Wire: ...


class OpenPorter(Protocol):
    """How a transfer reaches a host: a Connection, or an SshClient."""

    @property
    def host(self) -> Host: ...

    @property
    def logs_in_alone(self) -> bool:
        """Whether one more login needs no person."""

    def absolute(self, path: str) -> str: ...
    def far(self, program: ModuleType, request: dict[str, Any], *, silence_s: float = ...,
            wait: bool = ...) -> FarProgram: ...
    def ping(self, timeout_s: float = ...) -> float: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def session(way: OpenPorter, root: str, request: dict[str, Any],
            touch: Callable[[], None] = lambda: None) -> Iterator[Wire]:
    """Start the porter on the host with a request. Raise its problems as our errors. Call `touch` as long as its
    heartbeats arrive."""
    with way.far(porter, request, silence_s=SILENCE_S + 30) as program:  # the heartbeat is first
        wire, silence = program.wire, _Silence(way)
        with _far_problems(way, root, wire, silence), Heartbeat(wire, silence, SILENCE_S, touch):
            yield wire


def until_end(wire: Wire) -> Iterator[Message]:
    """Yield the entries that the host lists. Raise Problem when they exceed LISTING_BYTES."""
    before = wire.heard_bytes
    while "end" not in (message := wire.hear()):
        if wire.heard_bytes - before > LISTING_BYTES:
            raise Problem("long", "", f"the list of files is longer than {LISTING_BYTES} bytes")
        yield message


class _Silence:
    """Action when the host has been silent for too long: ping every hop, to name the one that failed, and close the
    connection, which ends whatever waits for it."""

    def __init__(self, way: OpenPorter) -> None:
        self._way = way
        self._culprit: HostError | None = None
        self._asking = threading.Lock()

    def __call__(self) -> None:
        with self._asking:
            self._ask()
        self._way.close()

    def named(self, error: ConnectionLost) -> ConnectionLost:
        """Return the error with the name of the hop that does not answer, where there is one."""
        if error.hop:
            return ConnectionLost(f"{error.message}; what was sent is kept", remedy=error.remedy)
        with self._asking:  # another thread may be looking for the failed hop, and have closed the connection
            if self._culprit is None:
                self._ask()
        if self._culprit is None:
            return error
        return ConnectionLost(f"{self._culprit.message}; what was sent is kept", remedy=self._culprit.remedy)

    def _ask(self) -> None:
        try:
            self._way.ping(PING_S)
        except HostError as error:
            self._culprit = error


@contextlib.contextmanager
def _far_problems(way: OpenPorter, root: str, wire: Wire, silence: _Silence) -> Iterator[None]:
    try:
        try:
            yield
        except (CommandFailed, ConnectionLost):  # perhaps it sent the reason before it ended
            with contextlib.suppress(RdtopsError):
                _hear_out(wire)
            raise
    except Problem as problem:
        raise _error(problem, way.host.name, root) from None
    except ConnectionLost as error:
        raise silence.named(error) from error
    except CommandFailed as error:
        if error.remedy:
            raise
        last_words = error.message.splitlines()[-1]
        raise TransferError(f"{way.host.name}: the program on the host ended unexpectedly: {last_words}",
                            remedy="run the same command again; what was sent is kept") from error


@contextlib.contextmanager
def own_problems(root: str, wire: Wire | None = None) -> Iterator[None]:
    """Raise problems with files of this machine as our errors. Tell the host, so that it drops a part that is wrong."""
    try:
        try:
            yield
        except OSError as error:
            raise problem_of(error, root) from error
    except Problem as problem:
        if problem.from_other_side:
            raise
        if wire is not None:
            with contextlib.suppress(RdtopsError, Problem):
                wire.say({"error": problem.kind, "path": "" if problem.path.startswith("/") else problem.path})
                wire.hear()  # it repeats the problem when it has dropped the part
        raise _error(problem, "this machine", root) from None


def _hear_out(wire: Wire) -> None:
    """Read the rest of what the other side sent and raise the Problem in it, if there is one."""
    try:
        for _ in until_end(wire):
            pass
    except Problem as problem:
        if not problem.from_other_side:
            raise


def _error(problem: Problem, side: str, root: str) -> TransferError:
    path = problem.path if problem.path.startswith("/") else joined(root, problem.path)
    where = f"{side}: {shown(path)}: "
    if problem.kind == "full":
        return _disk_full(problem, side, root, where)
    kind = DigestMismatch if problem.kind == "digest" else TransferError
    return kind(where + shown(problem.reason), remedy=_REMEDIES.get(problem.kind, "").format(root=root, side=side))


def _disk_full(problem: Problem, side: str, root: str, where: str) -> DiskFull:
    missing = problem.numbers.get("missing_bytes", 0)
    more = f": {size_words(missing)} more are needed, {size_words(problem.numbers.get('free_bytes', 0))} are free" \
        if missing else ""
    filesystem = problem.numbers.get("filesystem")
    on = f" on {shown(filesystem)}" if filesystem else ""
    return DiskFull(f"{where}{shown(problem.reason)}{on}{more}",
                    remedy=f"df -h {root}   # on {side}: free some space and run the same command again; what was "
                           "sent is kept")


_NOT_OURS = ("check hosts.{side}.python in hosts.toml and who may write to it: the answer is not from the program that "
             "was sent")
_REMEDIES = {
    "digest": "run the same command again; if it happens twice, the memory or the disk of one machine is faulty",
    "changed": "run the same command again when no program writes the file (with verify=\"full\" if none did)",
    "locked": "wait for the other transfer to end, then run the same command again",
    "snapshot": "hf download MODEL   # completes it on {side}; then run the same command again",
    "link": "cp -rL FOLDER COPY   # a copy without links can be sent",
    "os": "ls -ld {root}   # on {side}: what is there, and whose",
    "stalled": "ssh {side} df {root}   # check that its file system answers, then run the same command again; what "
               "was sent is kept",
    "long": "tar -C {root} -cf FILE .   # on {side}: pack the files into one archive and send that",
    "incomplete": "run the same command again",
    "noise": "ssh {side} true   # must print nothing; if it does, fix the start-up file of the shell on the host",
    "protocol": _NOT_OURS,
    "unasked": _NOT_OURS,
}
