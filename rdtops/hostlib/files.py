"""Files: read files of any kind or size within limits, and write files atomically. Standard library, Python 3.8: sent
with host programs."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Union

OURS = ".rdtops-"  # prefix of the files that a transfer keeps beside its own; never sent
TEXT_BYTES = 1 << 20  # default limit of a file that is read as a whole
TABLE_BYTES = 1 << 26  # of a file with a row for each file of a folder: some 500,000 of them
LINE_BYTES = 1 << 20  # of a line; a longer one is cut off
_HOW = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Path = Union[str, "os.PathLike[str]"]
AnyPath = Union[str, "os.PathLike[str]", bytes]


def opened(path: Path) -> int:
    """Open a regular file for reading. Raise OSError, also for a FIFO, device or folder: opening one may wait for ever,
    or have a side effect."""
    descriptor = os.open(path, os.O_RDONLY | _HOW)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(f"{os.fspath(path)} is not a regular file")


def appendable(path: Path) -> int:
    """Open a regular file, or /dev/null, for appending and reading; create it if it does not exist. Raise OSError, also
    for a FIFO or folder: a FIFO may have no reader, or a slow one."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _HOW, 0o644)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISCHR(mode):
        return descriptor
    os.close(descriptor)
    raise OSError(f"{os.fspath(path)} is not a regular file")


def head_of(path: Path, limit: int = TEXT_BYTES) -> bytes:
    """Return the first bytes of a regular file. Raise OSError."""
    with open(opened(path), "rb") as file:
        return file.read(limit)


def text_of(path: Path, limit: int = TEXT_BYTES) -> str:
    """Return the first bytes of a regular file as text; '' where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return head_of(path, limit).decode("utf-8", "replace")
    return ""


def tail_of(path: Path, limit: int) -> str:
    """Return the last bytes of a regular file as text; '' where it cannot be read."""
    with contextlib.suppress(OSError, ValueError), open(opened(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
        return file.read(limit).decode("utf-8", "replace")
    return ""


def lines_of(path: Path, longest: int = LINE_BYTES) -> Iterator[bytes]:
    """Yield the lines of a regular file with their newlines, in bounded memory: of a line longer than `longest` only
    its beginning, without a newline; an incomplete last line has none either. Raise OSError."""
    with open(opened(path), "rb") as file:
        while True:
            line = file.readline(longest)
            if not line:
                return
            yield line
            while not line.endswith(b"\n") and len(line) == longest:
                line = file.readline(longest)


def append_line(path: Path, line: str, *, flush: bool = False) -> None:
    """Append a line in one write, on its own line even after an incomplete one. `flush`: also fsync. Raise OSError,
    also for a FIFO."""
    descriptor = appendable(path)
    try:
        content = (b"\n" if _is_torn(descriptor) else b"") + line.encode("utf-8", "backslashreplace") + b"\n"
        written = os.write(descriptor, content)
        if written < len(content):
            _take_back(descriptor, content[:written])
            raise OSError(errno.ENOSPC, "No space left on device: only a part of the line was written", os.fspath(path))
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace a file atomically: afterwards it has all of `content`, and it is on the disk; after any failure it is
    unchanged. Replace a link of that name, never follow it; leave a device alone. Raise OSError."""
    with replacing(path) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Yield the name of a file beside `path`, for the body to write. Rename it to `path` when the body ends, remove it
    when the body fails. Raise OSError."""
    final = os.fspath(path)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IFMT(os.lstat(final).st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(f"{final} is a device and cannot be replaced")
    folder, name = os.path.split(final)
    part = os.path.join(folder, f".{name}.{os.getpid()}-{threading.get_ident()}.part")
    with contextlib.suppress(FileNotFoundError):  # left by a killed process with the same pid
        os.unlink(part)
    try:
        yield part
        put_in_place(part, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def put_in_place(part: AnyPath, final: AnyPath) -> None:
    """Rename a complete file, link or folder to its final name. Sync a file before (for a folder see `flush_below`),
    and the name afterwards. Raise OSError."""
    if stat.S_ISREG(os.lstat(part).st_mode):
        flush(part)
    os.replace(part, final)
    flush(os.path.dirname(os.path.abspath(final)))


def flush(path: AnyPath) -> None:
    """Sync the content of a file, or the names in a folder, to the disk; some network file systems cannot do that for
    folders. Raise OSError."""
    is_folder = os.path.isdir(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if is_folder:  # a folder that we may write but not read
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def flush_below(folder: Path) -> None:
    """Sync every file and every folder of a tree."""
    for root, _, names in os.walk(folder):
        for name in names:
            flush(os.path.join(root, name))
        flush(root)


def below(folder: str, is_wanted: Callable[[str], bool], is_entered: Callable[[str], bool]) -> list[str]:
    """Return the regular files of a tree whose paths below it are wanted, sorted, and the wanted links that lead
    nowhere: whoever opens one is told. Follow links to folders, each folder once, and enter only those whose paths
    `is_entered` accepts. Raise OSError for a folder that cannot be listed."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    linked: list[str] = []  # after all others: a folder is listed by its own name where it has one in the tree
    while waiting or linked:
        at = waiting.pop() if waiting else linked.pop(0)
        status = os.stat(os.path.join(folder, at))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(folder, at)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = os.path.join(at, entry.name)
                if os.path.isdir(entry.path):
                    if is_entered(path):
                        (linked if entry.is_symlink() else waiting).append(path)
                elif is_wanted(path) and (os.path.isfile(entry.path) or not os.path.exists(entry.path)):
                    found.append(path)
    return sorted(found, key=lambda path: path.split("/"))


def _take_back(descriptor: int, part: bytes) -> None:
    """Remove the written part of a line that did not fit, unless another process has written after it."""
    size = os.fstat(descriptor).st_size
    if os.pread(descriptor, len(part), size - len(part)) == part:
        os.ftruncate(descriptor, size - len(part))


def _is_torn(descriptor: int) -> bool:
    """Return whether the file ends with an incomplete line, as a full disk or a crash leaves it."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
