"""The processes of a run: found by the tag in their environment, named for ever by pid and start time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rdtops.hostlib import processes

TAG = "RDTOPS_RUN"


@dataclass(frozen=True)
class Member:
    """One process of the run."""

    pid: int
    started: str  # ticks since boot: with the pid it names one process of this boot
    rank: int | None  # None for launchers, loaders and shells

    @property
    def state(self) -> str:
        """R, S, D, T as /proc says it; '' when it has ended."""
        stat = processes.stat_of(self.pid)
        return stat[0] if len(stat) > 19 and stat[19] == self.started and stat[0] not in "ZX" else ""

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


def members(run_id: str) -> list[Member]:
    """Our user's living processes of the run, but not this one and those it descends from."""
    spared = processes.lineage()
    return [Member(pid, started, processes.rank_of(pid)) for pid in processes.carrying(f"{TAG}={run_id}")
            if pid not in spared and (started := processes.start_time(pid))]


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
