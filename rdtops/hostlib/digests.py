"""Digests: a cache of the MD5 sums of files by path, size, times and inode: an unchanged gigabyte costs a stat.

Transfers, checks and trainings of a user share the cache file on each machine: a JSON row for each file, later rows
win. So they all know what a deploy has read or written. Standard library, Python 3.8: sent with host programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from rdtops.hostlib import locks
from rdtops.hostlib.fields import loads
from rdtops.hostlib.files import AnyPath, lines_of, write_whole
from rdtops.hostlib.manifest import md5_of
from rdtops.hostlib.names import digest

CACHE = "~/.cache/rdtops/digests.jsonl"
ROW_BYTES = 1 << 16  # a path has 4096 bytes at most, six times that as JSON; a longer row is invalid
YOUNG_S = 2.0


class Cache:
    """The digest cache of one machine. A cache that cannot be written only costs time later."""

    def __init__(self, file: str = CACHE, trust: bool = True, read_only: bool = False) -> None:
        """`file` '': store nothing; `trust` False: ignore the stored rows, but store what is read."""
        self._file = os.path.expanduser(file)
        self._trust = trust
        self._read_only = read_only
        self._rows, self._superseded = load(self._file) if self._file else ({}, 0)
        self._new: list[str] = []

    def known(self, path: AnyPath, size: int) -> str:
        """Return the MD5 of a file of that size, '' where the cache has none for its present state. Raise OSError."""
        row = self._rows.get(_name(path)) if self._trust else None
        return row[1] if row and row[0][0] == size and row[0] == identity(os.stat(path)) else ""

    def learn_read(self, path: AnyPath, status: os.stat_result, size: int, md5: str) -> None:
        """Store the MD5 of a file that was read with that status; skip a young one, which may change again within one
        tick of its time."""
        if status.st_size == size and not is_young(status):
            self.learn(path, status, md5)

    def learn(self, path: AnyPath, status: os.stat_result, md5: str) -> None:
        name = _name(path)
        row = (identity(status), md5)
        if self._rows.get(name) != row:
            self._superseded += name in self._rows
            self._rows[name] = row
            self._new.append(row_of(name, *row))

    def save(self) -> None:
        """Append the new rows, or rewrite the file where most rows are superseded."""
        if not self._file or self._read_only or not self._new:
            return
        if self._superseded > len(self._rows) + 1000:
            with contextlib.suppress(OSError):
                write_whole(self._file, "".join(row_of(name, *row) for name, row in self._rows.items()))
        else:
            append(self._file, self._new)
        self._new = []


def remembered(paths: Iterable[Path], file: str = CACHE, limit_bytes: int | None = None) -> dict[Path, str]:
    """Return the MD5 of each file; read only files whose present state is not in the cache. With `limit_bytes` read no
    more than that, smaller files first: the MD5 of the rest is ''. Raise OSError."""
    cache, left = Cache(file), limit_bytes
    found = {path: cache.known(path, path.stat().st_size) for path in paths}
    for path in sorted((path for path, md5 in found.items() if not md5), key=lambda path: path.stat().st_size):
        before = path.stat()
        if left is not None:
            left -= before.st_size
            if left < 0:
                break
        found[path] = md5_of(path)
        after = path.stat()
        if identity(after) == identity(before):
            cache.learn_read(path, after, before.st_size, found[path])
    cache.save()
    return found


def known(paths: Iterable[Path], file: str = CACHE) -> dict[Path, str]:
    """Return the MD5 of the files whose present state is in the cache; read no file. Raise OSError."""
    cache = Cache(file)
    return {path: md5 for path in paths for md5 in [cache.known(path, path.stat().st_size)] if md5}


def identity(status: os.stat_result) -> list[int]:
    """Return what stays the same while a file is not changed: size, both times and inode. It includes the ctime, which
    only the kernel sets: a file that is rewritten with its old mtime, as `cp -p` and `rsync -t` do, may get the same
    inode again."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_young(status: os.stat_result) -> bool:
    """Return whether a file may change once more within one tick of its time."""
    return time.time() - status.st_mtime <= YOUNG_S


def row_of(path: str, its_identity: list[int], md5: str) -> str:
    return json.dumps([path, its_identity, md5], separators=(",", ":")) + "\n"


def load(file: Path | str) -> tuple[dict[str, tuple[list[int], str]], int]:
    """Return path -> (identity, MD5), and the number of superseded or broken lines of the cache."""
    known: dict[str, tuple[list[int], str]] = {}
    lines = 0
    with contextlib.suppress(OSError):
        for line in lines_of(file, ROW_BYTES):
            lines += 1
            with contextlib.suppress(ValueError, TypeError):  # a row that a full disk cut off, or no row
                name, its_identity, md5 = loads(line)
                if isinstance(name, str) and _is_identity(its_identity):
                    known[name] = (its_identity, digest(md5))
    return known, lines - len(known)


def _is_identity(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) is int for number in value)


def _name(path: AnyPath) -> str:
    """Return the real path as text, whatever the locale."""
    real = os.path.realpath(path)
    return real if isinstance(real, str) else real.decode("utf-8", "surrogateescape")


def append(file: Path | str, rows: Iterable[str]) -> None:
    """Append rows. Ignore OSError: a cache that cannot be written only costs time later."""
    text = "".join(rows)
    with contextlib.suppress(OSError):
        if text:
            os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
            locks.append(str(file), text)
