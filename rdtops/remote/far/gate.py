"""Gate: one at a time, by the kernel's lock of a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import Iterator

LAUNCHES = ".launch.lock"  # in runs/: held while a training begins, and while a release is removed


@contextlib.contextmanager
def alone(path: str, patience_s: float) -> Iterator[bool]:
    """Whether we hold the lock of `path` in the body; False when somebody kept it for all of `patience_s`."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        end_s = time.monotonic() + patience_s
        while not flocked(descriptor):
            if time.monotonic() > end_s:
                yield False
                return
            time.sleep(0.1)
        yield True
    finally:
        os.close(descriptor)


def flocked(descriptor: int) -> bool:
    """Whether we hold it alone now."""
    try:
        flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def flock(descriptor: int, how: int) -> None:
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise  # those three: Lustre and NFS without locks, where two cannot exclude each other
