"""Files that others may replace, break or make strange: read within bounds, written whole. Standard library, Python
3.8: far-side programs bring it along."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from typing import Union

OURS = ".rdtops-"  # what a transfer keeps beside the files that it brings: never taken for one of them
TEXT_BYTES = 1 << 20  # of a file that is read as a whole, where nobody says otherwise
TABLE_BYTES = 1 << 26  # of one with a row for each file of a folder: some 500,000 of them
LINE_BYTES = 1 << 20  # of a line; what is longer is cut there
_HOW = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Path = Union[str, "os.PathLike[str]"]
AnyPath = Union[str, "os.PathLike[str]", bytes]


def opened(path: Path) -> int:
    """A descriptor of a regular file, for reading. Raises OSError, for a FIFO, device or folder too: to open one may
    wait for ever, or do something."""
    descriptor = os.open(path, os.O_RDONLY | _HOW)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(f"{os.fspath(path)} is not a regular file")


def appendable(path: Path) -> int:
    """A descriptor of a regular file, which is made if need be, for appending and reading; /dev/null will do. Raises
    OSError, for a FIFO or folder too: it may have no reader, or a slow one."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _HOW, 0o644)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISCHR(mode):
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


def tail_of(path: Path, limit: int) -> str:
    """The last bytes of a regular file as text; '' where it cannot be read."""
    with contextlib.suppress(OSError, ValueError), open(opened(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
        return file.read(limit).decode("utf-8", "replace")
    return ""


def lines_of(path: Path, longest: int = LINE_BYTES) -> Iterator[bytes]:
    """The lines of a regular file with their newlines, in bounded memory: of one that is longer than `longest` its
    beginning comes, without a newline, as of a last one that has no end. Raises OSError."""
    with open(opened(path), "rb") as file:
        while True:
            line = file.readline(longest)
            if not line:
                return
            yield line
            while not line.endswith(b"\n") and len(line) == longest:
                line = file.readline(longest)


def append_line(path: Path, line: str, *, flush: bool = False) -> None:
    """In one write, on a line of its own whatever a full disk left before it. `flush`: it outlives the machine. Raises
    OSError, for a FIFO too."""
    descriptor = appendable(path)
    try:
        content = (b"\n" if _is_torn(descriptor) else b"") + line.encode("utf-8", "backslashreplace") + b"\n"
        written = os.write(descriptor, content)
        if written < len(content):
            _take_back(descriptor, content[:written])
            raise OSError(errno.ENOSPC, "No space left on device: it took only a part of a line", os.fspath(path))
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace a file: afterwards it has all of `content`, and it is on the disk; before, and after any failure, it is
    what it was. A link of that name is replaced, never followed; a device is left alone. Raises OSError."""
    with replacing(path) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[str]:
    """The name of a file beside `path`, for the body to write. It takes the place of `path` when the body ends, and is
    removed when the body fails. Raises OSError."""
    final = os.fspath(path)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IFMT(os.lstat(final).st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(f"{final} is a device, and is not replaced")
    folder, name = os.path.split(final)
    part = os.path.join(folder, f".{name}.{os.getpid()}-{threading.get_ident()}.part")
    with contextlib.suppress(FileNotFoundError):  # of a process of that number that was killed
        os.unlink(part)
    try:
        yield part
        put_in_place(part, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def put_in_place(part: AnyPath, final: AnyPath) -> None:
    """Give a file, a link or a folder that is complete its name. A file is on the disk before, of a folder see
    `flush_below`; the name is on the disk afterwards. Raises OSError."""
    if stat.S_ISREG(os.lstat(part).st_mode):
        flush(part)
    os.replace(part, final)
    flush(os.path.dirname(os.path.abspath(final)))


def flush(path: AnyPath) -> None:
    """The content of a file, or the names in a folder, are on the disk; for folders some network file systems cannot
    promise that. Raises OSError."""
    is_folder = os.path.isdir(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if is_folder:  # one that we may write and not read
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
    """Every file and every folder of a tree."""
    for root, _, names in os.walk(folder):
        for name in names:
            flush(os.path.join(root, name))
        flush(root)


def below(folder: str, suffix: str) -> list[str]:
    """The regular files of a tree whose names end so, as paths below it, in order; folders that links lead to belong to
    it, each folder once. What a transfer has begun is left out. Raises OSError for a folder that cannot be listed."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    linked: list[str] = []  # after all others: a folder is known by its own name where it has one in the tree
    while waiting or linked:
        at = waiting.pop() if waiting else linked.pop(0)
        status = os.stat(os.path.join(folder, at))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(folder, at)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = os.path.join(at, entry.name)
                if entry.is_dir():
                    (linked if entry.is_symlink() else waiting).append(path)
                elif entry.is_file() and entry.name.endswith(suffix) and not entry.name.startswith(OURS):
                    found.append(path)
    return sorted(found, key=lambda path: path.split("/"))


def _take_back(descriptor: int, part: bytes) -> None:
    """Of a line that found no room, unless somebody has written behind it since."""
    size = os.fstat(descriptor).st_size
    if os.pread(descriptor, len(part), size - len(part)) == part:
        os.ftruncate(descriptor, size - len(part))


def _is_torn(descriptor: int) -> bool:
    """The file ends within a line, as a full disk or a killed machine leaves it."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
