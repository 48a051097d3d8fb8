"""File digests: MD5 sums of the files of a transfer, in the cache of rdtops.hostlib.digests."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from rdtops.hostlib.digests import CACHE, Cache, identity
from rdtops.hostlib.files import opened
from rdtops.porter.entries import BLOCK, Problem, text
from rdtops.porter.wire import WORK

__all__ = ["CACHE", "Digests", "InOrder", "SourceDigest"]


class Digests(Cache):
    """The digest cache of one machine, for a transfer."""

    def __init__(self, cache: str = "", trust: bool = True, read_only: bool = False) -> None:
        super().__init__(cache, trust, read_only)

    def of(self, path: bytes, size: int) -> str:
        """Return the MD5 of the first `size` bytes of a file; read them unless the cache has it and is trusted.

        A log may grow while it is read: its first bytes stay the same. Raise Problem for any other change.
        """
        if known := self.known(path, size):
            return known
        with open(opened(os.fsdecode(path)), "rb") as file:
            before = os.fstat(file.fileno())
            md5: str = md5_of(file, size).hexdigest()
            after = os.fstat(file.fileno())
        if after.st_size < size or (after.st_size == size and identity(before) != identity(after)):
            raise Problem("changed", text(path), "it changed while it was read")
        self.learn_read(path, after, size, md5)
        return md5


class InOrder:
    """The MD5 of a file whose ranges are moved in any order. A thread reads the file in order, behind the ranges."""

    def __init__(self, file: int, size: int) -> None:
        self._file = file
        self._size = size
        self._ends: dict[int, int] = {}  # start -> end of the ranges that are not read yet
        self._more = threading.Condition()
        self._stopped = False
        self._digest = hashlib.md5()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, start: int, end: int) -> None:
        with self._more:
            self._ends[start] = max(end, self._ends.get(start, 0))
            self._more.notify()

    def result(self) -> str:
        """Return the MD5; call it when every range was added."""
        self._thread.join()
        if self._error:
            raise self._error
        return str(self._digest.hexdigest())

    def stop(self) -> None:
        with self._more:
            self._stopped = True
            self._more.notify()
        self._thread.join()

    def _run(self) -> None:
        at = 0
        try:
            while at < self._size and not self._stopped:
                with self._more:
                    while at not in self._ends and not self._stopped:
                        self._more.wait()
                    end = self._ends.pop(at, at)
                at = self._read(at, end)
        except OSError as error:
            self._error = error

    def _read(self, at: int, end: int) -> int:
        while at < end and not self._stopped:
            block = os.pread(self._file, min(BLOCK, end - at), at)
            if not block:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            self._digest.update(block)
            at += len(block)
            WORK.last_s = time.monotonic()
        return at


class SourceDigest:
    """The MD5 of a file that is sent in ranges, known when the last one is sent."""

    def __init__(self, path: bytes, size: int, digests: Digests) -> None:
        self._path = path
        self._size = size
        self._digests = digests
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._content = InOrder(self._file, size)

    def add(self, start: int, end: int) -> None:
        """Digest a range that was just sent, while it is still in memory."""
        self._content.add(start, end)

    def result(self) -> str:
        """Return the MD5; call it when the whole file was added."""
        md5 = self._content.result()
        self._digests.learn_read(self._path, os.fstat(self._file), self._size, md5)
        return md5

    def close(self) -> None:
        self._content.stop()
        os.close(self._file)


def blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        block = file.read(min(size, BLOCK))
        if not block:
            return
        size -= len(block)
        WORK.last_s = time.monotonic()
        yield block


def md5_of(file: BinaryIO, size: int) -> Any:
    digest = hashlib.md5()
    for block in blocks(file, size):
        digest.update(block)
    return digest


def write_all(file: BinaryIO, piece: Any) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view):]
    WORK.last_s = time.monotonic()
