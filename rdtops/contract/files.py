"""Files that others may replace, break or make strange: read within bounds, written whole. Standard library, Python
3.8: far-side programs bring it along."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from typing import Union

TEXT_BYTES = 1 << 20  # of a file that is read as a whole, where nobody says otherwise

Path = Union[str, "os.PathLike[str]"]


def opened(path: Path) -> int:
    """A descriptor of a regular file, for reading. Raises OSError, for a FIFO, device or folder too: to open one may
    wait for ever, or do something."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(f"{os.fspath(path)} is not a regular file")


def head_of(path: Path, limit: int = TEXT_BYTES) -> bytes:
    """The first bytes of a regular file. Raises OSError."""
    with open(opened(path), "rb") as file:
        return file.read(limit)


def text_of(path: Path, limit: int = TEXT_BYTES) -> str:
    """The same as text; '' where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return head_of(path, limit).decode("utf-8", "replace")
    return ""


def write_whole(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace a file: afterwards it has all of `content`, and it is on the disk; before, and after any failure, it is
    what it was. A link of that name is replaced, never followed; a device is left alone. Raises OSError."""
    final = os.fspath(path)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IFMT(os.lstat(final).st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(f"{final} is a device, and is not replaced")
    folder, name = os.path.split(final)
    part = os.path.join(folder, f".{name}.{os.getpid()}-{threading.get_ident()}.part")
    with contextlib.suppress(FileNotFoundError):  # of a process of that number that was killed
        os.unlink(part)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(part, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    flush_folder(folder or ".")


def flush_folder(folder: Path) -> None:
    """The names in it are on the disk as well; some network file systems cannot promise that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
