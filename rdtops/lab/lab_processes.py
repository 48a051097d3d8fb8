"""Processes of a lab, from /proc: each is identified by pid, start time and boot id."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rdtops.errors import LabError
from rdtops.hostlib import files, processes
from rdtops.lab.lab_files import place

PROC = Path("/proc")


@dataclass(frozen=True)
class LabProcess:
    """One process. A pid alone is reused; with start time and boot id it is unique."""

    pid: int
    started_ticks: int  # since boot, field 22 of /proc/PID/stat
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> LabProcess | None:
        """Return the current process of that pid, None when there is none or only a zombie."""
        started = processes.start_time(pid)
        return cls(pid, int(started), processes.boot_id()) if started else None

    @classmethod
    def read(cls, path: Path) -> LabProcess | None:
        """Return the process named in a file, `pid starttime boot_id`, if it still runs."""
        try:
            pid, ticks, boot_id = path.read_text(encoding="utf-8").split()
            written = cls(int(pid), int(ticks), boot_id)
        except (OSError, ValueError):
            return None
        return written if cls.of(written.pid) == written else None

    def write(self, path: Path) -> None:
        place(path, f"{self.pid} {self.started_ticks} {self.boot_id}\n")


def family(pid: int) -> set[int]:
    """Return the process and all its descendants."""
    children: dict[int, list[int]] = {}
    for one in (int(path.name) for path in PROC.iterdir() if path.name.isdigit()):
        if stat := processes.stat_of(one):
            children.setdefault(int(stat[1]), []).append(one)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        found.add(one := waiting.pop())
        waiting += [child for child in children.get(one, []) if child not in found]
    return found


def with_environment(name: str, value: str) -> set[int]:
    """Return this user's processes with this environment variable, except this process and its ancestors."""
    return {*processes.carrying(f"{name}={value}")} - processes.lineage()


def writing_to(file: Path) -> set[int]:
    """Return this user's processes that have this file open for writing only, as a server has its log."""
    targets = (str(file), f"{file} (deleted)")  # the second after `rm -rf` of a lab that was up
    return {pid for pid in {*processes.own()} - processes.lineage() for target in targets
            if any(_only_written(link) for link in _descriptors_of(pid, target))}


def _only_written(descriptor: Path) -> bool:
    try:
        return descriptor.lstat().st_mode & 0o700 == 0o300
    except OSError:  # closed, or its process ended, since it was listed
        return False


def holds_socket(pid: int, inode: int) -> bool:
    return any(True for _ in _descriptors_of(pid, f"socket:[{inode}]"))


def command_line(pid: int) -> str:
    return files.text_of(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def end_all(find: Callable[[], set[int]], grace_s: float = 2.0) -> int:
    """End the processes that `find` returns until it returns none: SIGTERM first, SIGKILL after the grace period.
    Return their number. Raise LabError when a process survives."""
    ended = processes.end(find, leave_s=grace_s)
    _reap(process.pid for process in ended.found)
    if ended.left:
        raise LabError("these processes of the lab do not end: " +
                       "; ".join(f"pid {pid} ({command_line(pid)})" for pid in sorted(p.pid for p in ended.left)))
    return len(ended.found)


def _descriptors_of(pid: int, target: str) -> Iterator[Path]:
    """Yield the links in /proc/PID/fd that point to `target`."""
    try:
        links = list((PROC / str(pid) / "fd").iterdir())
    except OSError:  # ended, or of another user
        return
    for link in links:
        try:
            if os.readlink(link) == target:  # noqa: PTH115  # its target is often not a path: socket:[123]
                yield link
        except OSError:  # closed meanwhile
            continue


def _reap(pids: Iterable[int]) -> None:
    """Wait for those that are our own children, so that no zombie remains."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue
