"""The processes of a run: found by the tag in their environment, named for ever by pid and start time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TAG = "RDTOPS_RUN"
TRAINER = "rdtops.trainer.train"
_STARTERS = ("accelerate.commands.launch", "rdtops.supervisor")  # they name the trainer in their arguments, too


@dataclass(frozen=True)
class Member:
    """One process of the run."""

    pid: int
    started: str  # ticks since boot: with the pid it names one process of this boot
    rank: int | None  # None for launchers, loaders and shells

    @property
    def state(self) -> str:
        """R, S, D, T as /proc says it; '' when it has ended."""
        stat = _stat(self.pid)
        return stat[0] if stat and stat[2] == self.started and stat[0] not in "ZX" else ""

    def send(self, number: signal.Signals) -> bool:
        """False when it is gone. Through a pidfd where there are such, so that a recycled pid is never hit."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except (OSError, AttributeError):  # an old kernel
            return self._send_by_pid(number)
        try:
            if not self.state:  # asked after the descriptor was opened: it is ours or it is gone
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _send_by_pid(self, number: signal.Signals) -> bool:
        if not self.state:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def own_name(pid: int) -> str:
    """`pid starttime boot_id`, as the file `process` of a run holds it."""
    stat = _stat(pid)
    return f"{pid} {stat[2] if stat else 0} {boot_id()}\n"


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def members(run_id: str) -> list[Member]:
    """Our user's living processes of the run, but not this one and those it descends from."""
    tag = f"{TAG}={run_id}".encode()
    spared = _lineage()
    return [found for path in PROC.iterdir() if path.name.isdigit() and int(path.name) not in spared
            and (found := _member(int(path.name), tag))]


def ranks(of: Iterable[Member]) -> list[Member]:
    return sorted((m for m in of if m.rank is not None), key=lambda m: m.rank or 0)


def end(find: Callable[[], list[Member]], *, grace_s: float = 0.0) -> list[Member]:
    """Kill what `find` finds until it finds nothing; with a grace, its ranks are asked to save and leave first.
    Returns all that were there."""
    there = find()
    asked = ranks(there) if grace_s > 0 else []
    for member in asked:
        member.send(signal.SIGTERM)
        member.send(signal.SIGCONT)  # a frozen one hears it only when it goes on
    _wait(lambda: not any(member.state for member in asked), grace_s)
    seen = {m.pid: m for m in there}
    for _ in range(100):  # one that forks while it is killed leaves another
        left = find()
        if not left:
            break
        seen.update({m.pid: m for m in left})
        for member in left:
            member.send(signal.SIGKILL)
        _wait(lambda left=left: not any(member.state for member in left), 0.5)  # type: ignore[misc]
    return list(seen.values())


def _wait(over: Callable[[], bool], limit_s: float) -> None:
    latest_s = time.monotonic() + limit_s
    while not over() and time.monotonic() < latest_s:
        time.sleep(0.05)


def _member(pid: int, tag: bytes) -> Member | None:
    try:
        if (PROC / str(pid)).stat().st_uid != os.geteuid():
            return None
        variables = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    stat = _stat(pid)
    if tag not in variables or not stat or stat[0] in "ZX":
        return None
    return Member(pid, stat[2], _rank(words, variables))


def _rank(words: list[str], variables: list[bytes]) -> int | None:
    if TRAINER not in words or any(starter in words for starter in _STARTERS):
        return None
    return next((int(v[5:]) for v in variables if v.startswith(b"RANK=") and v[5:].isdigit()), 0)


def _lineage() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        stat = _stat(pid)
        pid = int(stat[1]) if stat else 0
    return found


def _stat(pid: int) -> tuple[str, str, str] | None:
    """State, parent and start time; None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # the name before it may hold anything
    return (words[0], words[1], words[19]) if len(words) > 19 else None
