"""Locks: the kernel's flock of a file, which ends with the last process that holds it, however that ends. Standard
library, Python 3.8: far-side programs bring it along.

What a lock file says is never believed, only whether it is locked. Whoever may open a lock file may lock it, so our own
are 0600: nobody else can keep them from us.

On a file system without locks (Lustre without -o flock, NFS without lockd) every lock is granted: two processes cannot
exclude each other there, and that is no reason not to work. What else tells them apart still does: a run's `process`
names the one that lives.
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
APPEND_S = 5.0  # many append at once, each for a moment
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFSOCK: "a socket",
          stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


def flock(descriptor: int, how: int) -> None:
    """Wait for the lock."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


def flocked(descriptor: int, how: int = EXCLUSIVE, patience_s: float = 0.0) -> bool:
    """Whether we hold it now, or once those who have it gave it up within `patience_s`."""
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
    """Whether a process holds the file so that nobody gets `against`. One that is not there is held by nobody."""
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
    """Whether we hold a lock file of ours in the body; False when somebody kept it for all of `patience_s`. Its folder
    is made where it lacks."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = opened(path)
    try:
        yield flocked(descriptor, patience_s=patience_s)
    finally:
        os.close(descriptor)


def append(path: str, text: str) -> None:
    """Add lines to a file of ours, one process at a time. Raises OSError, also when one keeps it."""
    descriptor = opened(path)
    with open(descriptor, "r+", encoding="ascii") as file:
        if not flocked(descriptor, patience_s=APPEND_S):
            raise OSError(f"{path} is locked by a process that does not go on")
        file.seek(0, os.SEEK_END)
        file.write(text)


def opened(path: str | bytes, mode: int = OURS) -> int:
    """A descriptor of a lock file, which is made where there is none and gets `mode` where it is ours. Raises OSError
    that says what is in the way and whose it is."""
    descriptor = _opened(path, mode, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(f"{os.fsdecode(path)} {obstacle(path)}")
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)
    return descriptor


def obstacle(path: str | bytes) -> str:
    """What a path is that cannot be opened as a lock: `is a FIFO of mallory (uid 1001)`."""
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    whose = owner(status.st_uid)
    return f"is {kind} of {whose}" if kind else f"belongs to {whose}, mode {stat.S_IMODE(status.st_mode):04o}"


def owner(uid: int) -> str:
    name = user_name(uid)
    return f"{name} (uid {uid})" if name else f"uid {uid}"


def user_name(uid: int) -> str:
    """'' for a number that has no name on this machine."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _opened(path: str | bytes, mode: int, flags: int) -> int:
    """Opened before it is created: in /tmp the kernel refuses O_CREAT for the file of another user."""
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
