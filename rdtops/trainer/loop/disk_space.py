"""Disk: what a training does when there is no room on it. Lines wait until there is, the last words have a place kept
for them, and whoever has to stop says which file system is full, how much is needed and how much is free.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from rdtops.errors import DiskFull

T = TypeVar("T")

log = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RESERVE = "reserve"  # in the run folder
RESERVE_BYTES = 1 << 16  # about 150 lines of a Journal
_LIMITS = {errno.EDQUOT: ("your quota is used up", "quota -s   # on the host"),
           errno.EFBIG: ("files may not get larger", "ulimit -f   # on the host: 'unlimited' in limits.conf")}


def is_full(error: BaseException) -> bool:
    """Tell whether more room would have helped."""
    return isinstance(error, OSError) and error.errno in FULL


def full(error: OSError, path: Path, needed_bytes: int = 0) -> DiskFull:
    """Say what became of a write of `needed_bytes` to `path` that failed for want of room. 0: nobody knows how many."""
    mount = mount_point(path)
    there = os.statvfs(mount)
    free_bytes = there.f_bavail * there.f_frsize
    why, remedy = _LIMITS.get(error.errno or 0, (
        f"{free_bytes / 1e6:.1f} MB are free",
        f"du -xh -d 2 {mount} | sort -h | tail   # on the host: what takes it; then make room"))
    needed = f"{needed_bytes / 1e6:.1f} MB are needed, " if needed_bytes else ""
    return DiskFull(f"no room on {mount} for {path}: {needed}{why} ({error.strerror or error})", remedy=remedy)


def mount_point(path: Path) -> Path:
    """Of the file system that `path` lies on, or would."""
    here = path.absolute()
    while not here.exists() or not here.is_mount():
        if here == here.parent:
            break
        here = here.parent
    return here


class Backlog(Generic[T]):
    """Lines on their way to a file. On a full disk they wait for the next one, in order, and the training goes on."""

    def __init__(self, what: Path, write: Callable[[T], object]) -> None:
        self._what, self._write = what, write
        self._waiting: deque[T] = deque()

    def add(self, line: T) -> None:
        """Raises an OSError that has nothing to do with room."""
        self._waiting.append(line)
        self.clear()

    def clear(self) -> bool:
        """Write what waits. False when there is still no room for all of it."""
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if not is_full(error):
                raise
            log.error("%s: no room, %d lines wait: %s", self._what, len(self._waiting), error)
        return not self._waiting


# --- a place for the last words ---

def keep_reserve(folder: Path) -> None:
    """Keep some bytes in a run folder. Raises DiskFull when there is not even so little."""
    path = folder / RESERVE
    try:
        path.write_bytes(os.urandom(RESERVE_BYTES))  # some file systems would compress zeros
    except OSError as error:
        if not is_full(error):
            raise
        path.unlink(missing_ok=True)
        raise full(error, path, RESERVE_BYTES) from error


def give_up_reserve(folder: Path) -> None:
    """Make room for the last lines of the Journal, the log, and the exit code that the launch script writes."""
    (folder / RESERVE).unlink(missing_ok=True)
