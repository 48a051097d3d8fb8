"""Processes: identify processes by pid, start time and boot id, find them by the tag of a run in their environment, and
end them. Uses /proc. Standard library, Python 3.8: sent with host programs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rdtops.hostlib.fields import decimal
from rdtops.hostlib.files import text_of

TRAINER = "rdtops.trainer.train"
# these have the trainer's name in their arguments, too
STARTERS = frozenset(("rdtops.trainer.process_group", "rdtops.supervisor",
                      "accelerate.commands.launch", "torch.distributed.run"))  # of runs before, and by hand
LOOK_S = 0.1
KILLED_S = 20.0  # until a killed process is gone, on a very busy machine


@dataclass(frozen=True)
class Process:
    """One process of this boot, by pid and start time, because pids are reused."""

    pid: int
    started: str  # ticks since boot
    rank: int | None = field(default=None, compare=False)  # None for launchers, loaders and shells

    @property
    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started

    @property
    def state(self) -> str:
        """R, S, D or T as in /proc; '' when it has ended."""
        stat = stat_of(self.pid)
        return stat[0] if len(stat) > 19 and stat[19] == self.started and stat[0] not in "ZX" else ""

    def catches(self, number: signal.Signals) -> bool:
        """Return whether the process has a handler for a signal. Without one, most signals end it."""
        for line in text_of(f"/proc/{self.pid}/status").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
        return False

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; return False when the process is gone. Use a pidfd where it is supported, so that a reused pid
        is never hit."""
        try:
            descriptor = os.pidfd_open(self.pid)  # Linux 5.3, Python 3.9
        except ProcessLookupError:
            return False
        except (OSError, AttributeError):
            return self.is_alive and send([self.pid], number)
        try:
            if not self.is_alive:  # checked after the pidfd was opened: it is this process or it is gone
                return False
            signal.pidfd_send_signal(descriptor, number)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


@dataclass(frozen=True)
class Ended:
    """The result of `end`: the processes found, killed and left."""

    found: tuple[Process, ...]
    killed: tuple[Process, ...]
    left: tuple[Process, ...]  # survived SIGKILL


def boot_id() -> str:
    return text_of("/proc/sys/kernel/random/boot_id").strip()


def stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on: state, parent and, as number 19, the start time in ticks
    since boot. Empty for a process that is gone."""
    return text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before it may contain anything


def start_time(pid: int) -> str:
    """Return the kernel's start time of a living process, '' for one that is gone or a zombie.

    A zombie with more than one thread lives: only its first thread has ended, and the others hold its files and ports.
    """
    stat = stat_of(pid)
    return stat[19] if len(stat) > 19 and (stat[0] not in "ZX" or int(stat[17]) > 1) else ""


def name_of(pid: int) -> str:
    """Return `pid starttime boot_id`, as in the file `process` of a run."""
    return f"{pid} {start_time(pid) or 0} {boot_id()}"


def is_alive(process: str) -> bool:
    """Return whether `pid starttime boot_id` still names a living process."""
    words = process.split()
    pid = decimal(words[0]) if len(words) == 3 else None
    return pid is not None and words[2] == boot_id() and start_time(pid) == words[1]


def environment(pid: int) -> list[str]:
    """Return NAME=value of each variable that a process was started with; none where it may not be read."""
    return text_of(f"/proc/{pid}/environ").split("\0")


def own() -> list[int]:
    """Return our user's processes except this one, also zombies, which have neither environment nor files."""
    found = []
    for name in os.listdir("/proc"):
        if decimal(name) is None or int(name) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == os.geteuid():
                found.append(int(name))
        except OSError:
            continue
    return found


def carrying(tag: str) -> list[int]:
    """Return our living processes with `NAME=value` in their environment, whatever their session or parent."""
    return [pid for pid in own() if tag in environment(pid) and start_time(pid)]


def carried(variable: str) -> set[str]:
    """Return every `NAME=value` of that name in the environments of our living processes."""
    return {word for pid in own() for word in environment(pid) if word.startswith(f"{variable}=") and start_time(pid)}


def variable_of(pid: int, name: str) -> str | None:
    """Return a variable of a process's environment."""
    return next((word[len(name) + 1:] for word in environment(pid) if word.startswith(f"{name}=")), None)


def processes_of(pids: Iterable[int]) -> list[Process]:
    """Return the living ones of some processes, with their ranks."""
    return [Process(pid, started, rank_of(pid)) for pid in pids for started in [start_time(pid)] if started]


def ranks_of(processes: Iterable[Process]) -> list[Process]:
    return sorted((p for p in processes if p.rank is not None), key=lambda p: p.rank or 0)


def lineage() -> set[int]:
    """Return this process and its ancestors."""
    found: set[int] = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        stat = stat_of(pid)
        pid = int(stat[1]) if stat else 0
    return found


def rank_of(pid: int) -> int | None:
    """Return the rank of a process that runs the trainer itself, 0 where it runs alone; None for launchers, loaders and
    shells."""
    words = text_of(f"/proc/{pid}/cmdline").split("\0")
    if TRAINER not in words or STARTERS & set(words):
        return None
    return max(decimal(variable_of(pid, "RANK") or "") or 0, 0)


def send(pids: Iterable[int], number: signal.Signals) -> bool:
    """Send a signal; return whether one of the processes got it."""
    sent = False
    for pid in pids:
        try:
            os.kill(pid, number)
            sent = True
        except OSError:
            continue
    return sent


def end(find: Callable[[], Iterable[int]], *, first: Callable[[Sequence[Process]], Sequence[Process]] = ranks_of,
        grace_s: float = 0.0, leave_s: float = 0.0, killed_s: float = KILLED_S) -> Ended:
    """End the processes that `find` finds, until it finds none: SIGTERM, wait, SIGKILL.

    The processes of `first` get SIGTERM alone, have `grace_s` to save, and are killed. Their parents then have
    `leave_s` to end by themselves, and write how they ended. The rest gets SIGTERM, has `leave_s`, and is killed. A
    process that was found once is ended even when `find` no longer finds it: it leaves its namespace before it ends.
    """
    seen: dict[Process, None] = {}  # in the order they were found

    def living() -> list[Process]:
        seen.update(dict.fromkeys(processes_of(find())))
        return [process for process in seen if process.is_alive]

    asked = first(living()) if grace_s > 0 else []
    killed: list[Process] = []
    if asked:
        _signal(lambda: [process for process in asked if process.is_alive], signal.SIGTERM, grace_s)
        killed += _signal(lambda: [process for process in asked if process.is_alive], signal.SIGKILL, killed_s)
        for _ in _wait(living, leave_s):
            pass
    if leave_s > 0:
        _signal(living, signal.SIGTERM, leave_s)
    killed += _signal(living, signal.SIGKILL, killed_s)
    return Ended(tuple(seen), tuple(killed), tuple(living()))


def _signal(living: Callable[[], Sequence[Process]], number: signal.Signals, limit_s: float) -> list[Process]:
    """Send a signal to each of `living`, also to new children, until none is left. Return the processes that got it."""
    signalled: list[Process] = []
    for processes in _wait(living, limit_s):
        for process in processes:
            if process not in signalled:
                signalled.append(process)
                process.send(number)
                process.send(signal.SIGCONT)  # a stopped process handles it only when it continues
    return signalled


def _wait(living: Callable[[], Sequence[Process]], limit_s: float) -> Iterator[Sequence[Process]]:
    """Yield the living processes, repeatedly, until there are none or the limit is over; at least once if any live."""
    latest_s = time.monotonic() + limit_s
    while True:
        processes = living()
        if processes:
            yield processes
        if not processes or time.monotonic() > latest_s:
            return
        time.sleep(LOOK_S)
