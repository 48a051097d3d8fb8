"""Part: a file under its temporary name, until it is complete. A small one grows from its beginning; a large one
arrives as ranges in any order, from several processes, with a record of the written ranges beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from rdtops.hostlib.files import OURS
from rdtops.hostlib.locks import EXCLUSIVE, SHARED, flock
from rdtops.porter.entries import BLOCK, Entry, Message, count, nonsense, place, raw
from rdtops.porter.wire import WORK, Wire

PART = OURS + "part-"
RECORD = b".ranges"
ZEROS = bytes(BLOCK)


def part_name(path: str, size: int, mtime_ns: int) -> str:
    """Return the name of a file until it is complete, made of its final name and the version of its source. Its MD5
    confirms the version in the end."""
    name = hashlib.md5(raw(path.rpartition("/")[2])).hexdigest()[:12]
    version = hashlib.md5(b"%d %d" % (size, mtime_ns)).hexdigest()[:12]
    return f"{PART}{name}-{version}"


def part_of(root: str, entry: Entry) -> bytes:
    """Return the path of the part of a file, in the same folder."""
    folder = os.path.dirname(os.path.abspath(place(root, entry.path)))
    return os.path.join(folder, raw(part_name(entry.path or root, entry.size, entry.mtime_ns)))


def begun(folder: bytes) -> list[tuple[bytes, int]]:
    """Return the parts in a folder, with the bytes that each has."""
    try:
        with os.scandir(folder) as found:
            return [(child.name, _begun_bytes(child.path)) for child in found
                    if child.name.startswith(raw(PART)) and not child.name.endswith(RECORD)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(part: bytes) -> None:
    for path in (part, part + RECORD):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


class RangedPart:
    """A part that is written in ranges. A writer holds a shared lock on its record, so that the process that completes
    the file can wait until nobody writes: an abandoned process may still have bytes to write."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.file = _opened(path, os.O_RDWR)
        try:
            self._record = _opened(path + RECORD, os.O_RDWR | os.O_APPEND)
        except BaseException:
            os.close(self.file)
            raise

    def close(self) -> None:
        os.close(self.file)
        os.close(self._record)

    def detached(self) -> BinaryIO:
        """Return the open file, to complete it; close the record."""
        os.close(self._record)
        return os.fdopen(self.file, "r+b", buffering=0)

    def share(self) -> None:
        flock(self._record, SHARED)

    def be_alone(self) -> None:
        flock(self._record, EXCLUSIVE)

    def there(self, size: int) -> list[tuple[int, int]]:
        """Return the (start, end) of the ranges whose content is what was recorded. Extend the part to the size of the
        file."""
        if not os.fstat(self._record).st_size:  # the part grew from its beginning, or is new
            grown = min(os.fstat(self.file).st_size, size)
            self._note(0, grown, _crc_of(self.file, 0, grown))
        os.ftruncate(self.file, size)
        return joined((at, at + length) for at, length, crc in _rows(self.path)
                      if length and at + length <= size and _crc_of(self.file, at, length) == crc)

    def clear(self) -> None:
        os.ftruncate(self.file, 0)
        os.ftruncate(self._record, 0)

    def take(self, wire: Wire, at: int, size: int) -> int:
        """Write a range that comes over the wire, and record it, or as much of it as came before the wire broke. Return
        its CRC-32: enough to find a range to send again; the MD5 of the whole file is checked in the end."""
        crc, start, end = 0, at, at + size
        try:
            while at < end:
                for piece in _pieces(wire, end - at):
                    self._write(at, piece)
                    crc = zlib.crc32(piece, crc)
                    at += len(piece)
        except BaseException:
            with contextlib.suppress(OSError):
                self._note(start, at - start, crc)
            raise
        self._note(start, size, crc)
        return crc

    def _write(self, at: int, piece: memoryview) -> None:
        if piece.obj is ZEROS and os.pread(self.file, len(piece), at) == piece:
            return  # keep a hole of a sparse file
        while piece:
            count = os.pwrite(self.file, piece, at)
            piece, at = piece[count:], at + count
        WORK.last_s = time.monotonic()

    def _note(self, at: int, size: int, crc: int) -> None:
        os.write(self._record, b"%d %d %d\n" % (at, size, crc))


def give(wire: Wire, file: int, at: int, size: int) -> int:
    """Send the content of a range, of zeros only their number. Return its CRC-32; -1 when the file ends before."""
    crc, end = 0, at + size
    while at < end:
        block = os.pread(file, min(BLOCK, end - at), at)
        if not block:
            return -1
        if block == memoryview(ZEROS)[:len(block)]:
            wire.say({"zeros": len(block)})
        else:
            wire.give(block)
        crc = zlib.crc32(block, crc)
        at += len(block)
        WORK.last_s = time.monotonic()
    return crc


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge spans that touch or overlap."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def gaps(size: int, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of a file of that size that are in no span."""
    result, at = [], 0
    for start, end in joined(spans):
        if start > at:
            result.append((at, start))
        at = max(at, end)
    return [*result, (at, size)] if at < size else result


def spans_in(message: Message, name: str, size: int) -> list[tuple[int, int]]:
    """Return the spans in a message about a file of that size, merged. Raise Problem."""
    rows = message.get(name)
    if not isinstance(rows, list) or not all(_is_span(row, size) for row in rows):
        raise nonsense(message, name)
    return joined((start, end) for start, end in rows)


def _is_span(row: object, size: int) -> bool:
    return isinstance(row, list) and [type(end) for end in row] == [int, int] and 0 <= row[0] < row[1] <= size


def _pieces(wire: Wire, missing: int) -> Iterator[memoryview]:
    message, most = wire.hear(), min(missing, BLOCK)
    if "zeros" in message:
        yield memoryview(ZEROS)[:count(message, "zeros", most, 1)]
    else:
        yield from wire.pieces(count(message, "bytes", most, 1))


def _begun_bytes(part: bytes) -> int:
    if os.path.exists(part + RECORD):
        return sum(end - start for start, end in joined((at, at + size) for at, size, _ in _rows(part)))
    return os.lstat(part).st_size


def _rows(part: bytes) -> Iterator[tuple[int, int, int]]:
    with open(part + RECORD, encoding="ascii", errors="replace") as record:
        for line in record:
            words = line.split()
            if len(words) == 3 and all(word.isdigit() for word in words) and line.endswith("\n"):
                yield int(words[0]), int(words[1]), int(words[2])  # else a row that was cut short


def _opened(path: bytes, how: int) -> int:
    return os.open(path, how | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _crc_of(file: int, at: int, size: int) -> int:
    crc, end = 0, at + size
    while at < end:
        block = os.pread(file, min(BLOCK, end - at), at)
        if not block:
            break
        crc = zlib.crc32(block, crc)
        at += len(block)
        WORK.last_s = time.monotonic()
    return crc
