"""Disk space: how a training handles a full disk. Lines wait until there is space, some bytes are reserved for the last
messages, and an error names the full file system, the space needed and the space free.
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
    """Tell whether the error means that space is lacking."""
    return isinstance(error, OSError) and error.errno in FULL


def full(error: OSError, path: Path, needed_bytes: int = 0) -> DiskFull:
    """Describe a write of `needed_bytes` to `path` that failed for lack of space. 0: unknown size."""
    mount = mount_point(path)
    there = os.statvfs(mount)
    free_bytes = there.f_bavail * there.f_frsize
    why, remedy = _LIMITS.get(error.errno or 0, (
        f"{free_bytes / 1e6:.1f} MB are free",
        f"du -xh -d 2 {mount} | sort -h | tail   # on the host: shows what takes the space; then free some"))
    needed = f"{needed_bytes / 1e6:.1f} MB are needed, " if needed_bytes else ""
    return DiskFull(f"no space on {mount} for {path}: {needed}{why} ({error.strerror or error})", remedy=remedy)


def mount_point(path: Path) -> Path:
    """Return the mount point of the file system of `path`, which need not exist."""
    here = path.absolute()
    while not here.exists() or not here.is_mount():
        if here == here.parent:
            break
        here = here.parent
    return here


class Backlog(Generic[T]):
    """Lines to be written to a file. On a full disk they wait for the next one, in order, and the training
    continues."""

    def __init__(self, what: Path, write: Callable[[T], object]) -> None:
        self._what, self._write = what, write
        self._waiting: deque[T] = deque()

    def add(self, line: T) -> None:
        """Add a line. Raise an OSError, except for a full disk."""
        self._waiting.append(line)
        self.clear()

    def clear(self) -> bool:
        """Write the waiting lines. Return False while there is not enough space for all."""
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if not is_full(error):
                raise
            log.error("%s: no space, %d lines wait: %s", self._what, len(self._waiting), error)
        return not self._waiting


# --- space reserved for the last messages ---

def keep_reserve(folder: Path) -> None:
    """Reserve some bytes in a run folder. Raise DiskFull when there is no space for them."""
    path = folder / RESERVE
    try:
        path.write_bytes(os.urandom(RESERVE_BYTES))  # some file systems would compress zeros
    except OSError as error:
        if not is_full(error):
            raise
        path.unlink(missing_ok=True)
        raise full(error, path, RESERVE_BYTES) from error


def give_up_reserve(folder: Path) -> None:
    """Free the reserve for the last lines of the Journal and the log, and the exit code that the launch script
    writes."""
    (folder / RESERVE).unlink(missing_ok=True)
