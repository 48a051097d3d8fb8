"""Target lock: one transfer per target, and the check of its free disk space."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time

from rdtops.hostlib.files import OURS, text_of
from rdtops.hostlib.locks import flocked, opened
from rdtops.porter.entries import Problem, mount_point, raw, text
from rdtops.porter.wire import BEAT_S, IDLE_S

LOCK = OURS + "lock-"


class Lock:
    """The lock of a target: flock on a file beside it. Its mtime is the time when the holder last heard its other
    side."""

    def __init__(self, root: str) -> None:
        top = os.path.realpath(raw(root))
        folder, name = os.path.split(top)
        if os.path.isdir(top) and not os.access(folder, os.W_OK):
            folder = top  # a home below a folder that belongs to root
        self._root = root
        self._path = os.path.join(folder, raw(LOCK) + hashlib.md5(name).hexdigest()[:12].encode())
        self._descriptor = -1

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + IDLE_S + 2 * BEAT_S
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        while not self._taken():
            if self._holder_lives() or time.monotonic() > deadline:
                raise Problem("locked", self._root, f"another transfer to it is running (process {self._holder()})")
            time.sleep(0.2)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, b"%d\n" % os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        os.unlink(self._path)  # while it is held: a process that has opened it meanwhile sees that it is removed
        os.close(self._descriptor)

    def touch(self) -> None:
        os.utime(self._descriptor)

    def _taken(self) -> bool:
        descriptor = opened(self._path)
        with contextlib.suppress(FileNotFoundError):  # the holder removed it just now
            if flocked(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                self._descriptor = descriptor
                return True
        os.close(descriptor)
        return False

    def _holder_lives(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return time.time() - os.stat(self._path).st_mtime < 2 * BEAT_S + 1
        return False

    def _holder(self) -> str:
        pid = text_of(text(self._path), 20).strip()
        return pid if pid.isdigit() else "unknown"


def space(path: str) -> tuple[int, int]:
    """Return the free bytes and free inodes where `path` is or would be; -1 inodes where they are not counted."""
    nearest = os.path.abspath(raw(path))
    while not os.path.exists(nearest):
        nearest = os.path.dirname(nearest)
    free = os.statvfs(nearest)
    return free.f_bavail * free.f_frsize, free.f_favail if free.f_files else -1


def refuse_full(root: str, need_bytes: int, need_files: int) -> None:
    free_bytes, free_files = space(root)
    if need_bytes > free_bytes:
        raise Problem("full", root, "there is not enough space", missing_bytes=need_bytes - free_bytes,
                      free_bytes=free_bytes, filesystem=mount_point(root))
    if 0 <= free_files < need_files:
        raise Problem("full", root, f"{need_files} inodes are needed, {free_files} are free",
                      missing_bytes=0, free_bytes=free_bytes, filesystem=mount_point(root))
