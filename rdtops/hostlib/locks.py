"""Locks: the kernel's flock of a file, which ends with the last process that holds it, however that ends. Standard
library, Python 3.8: sent with host programs.

The content of a lock file is never trusted, only whether it is locked. Any user who may open a lock file may lock it,
so our own are 0600: no other user can hold them.

On a file system without locks (Lustre without -o flock, NFS without lockd) every lock is granted: two processes cannot
exclude each other there, and we work without. The other safeguards still hold: a run's `process` names the process
that is alive.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterator

EXCLUSIVE, SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH
LAUNCHES = ".launch.lock"  # in runs/: held while a training begins, and while a release is removed
OURS = 0o600
APPEND_S = 5.0  # many processes append at once, each for a moment
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFSOCK: "a socket",
          stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


def flock(descriptor: int, how: int) -> None:
    """Take the lock, and wait for it."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


def flocked(descriptor: int, how: int = EXCLUSIVE, patience_s: float = 0.0) -> bool:
    """Try to take the lock, for up to `patience_s`. Return whether we hold it."""
    end_s = time.monotonic() + patience_s
    while True:
        try:
            flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end_s:
                return False
            time.sleep(0.02)
        else:
            return True


def is_held(path: str, against: int = EXCLUSIVE) -> bool:
    """Return whether a process holds a lock that excludes `against`; False for a file that does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return not flocked(descriptor, against)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(path: str, patience_s: float) -> Iterator[bool]:
    """Hold a lock file of ours in the body. Yield False when another process held it for all of `patience_s`. Make its
    folder if it is missing."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = opened(path)
    try:
        yield flocked(descriptor, patience_s=patience_s)
    finally:
        os.close(descriptor)


def append(path: str, text: str) -> None:
    """Append lines to a file of ours, one process at a time. Raise OSError, also when another process holds it."""
    descriptor = opened(path)
    with open(descriptor, "r+", encoding="ascii") as file:
        if not flocked(descriptor, patience_s=APPEND_S):
            raise OSError(f"{path} is locked by another process for more than {APPEND_S:g} s")
        file.seek(0, os.SEEK_END)
        file.write(text)


def opened(path: str | bytes, mode: int = OURS) -> int:
    """Open a lock file; create it if it does not exist, and set `mode` where it is ours. Raise OSError that names the
    obstacle and its owner."""
    descriptor = _opened(path, mode, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(f"{os.fsdecode(path)} {obstacle(path)}")
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)
    return descriptor


def obstacle(path: str | bytes) -> str:
    """Return why a path cannot be opened as a lock: `is a FIFO of mallory (uid 1001)`."""
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"cannot be accessed ({error.strerror})"
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    whose = owner(status.st_uid)
    return f"is {kind} of {whose}" if kind else f"belongs to {whose}, mode {stat.S_IMODE(status.st_mode):04o}"


def owner(uid: int) -> str:
    name = user_name(uid)
    return f"{name} (uid {uid})" if name else f"uid {uid}"


def user_name(uid: int) -> str:
    """Return the name of a user, '' where it has none on this machine."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _opened(path: str | bytes, mode: int, flags: int) -> int:
    """Open a file, and create it only if it does not exist: in /tmp the kernel refuses O_CREAT for the file of another
    user."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
        return os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENXIO) and os.path.lexists(path):
            raise OSError(f"{os.fsdecode(path)} {obstacle(path)}") from None
        raise
