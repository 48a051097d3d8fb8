"""MD5 sums of files, remembered by path, size, times and inode: an unchanged gigabyte costs a stat.

The file is the one that transfers keep on both machines (rdtops.remote.far.digests), a JSON row for each file, later
rows win. So what a deploy has read or written is known here too. Standard library, Python 3.8: far-side programs bring
it along.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from rdtops.contract import locks
from rdtops.contract.fields import loads
from rdtops.contract.files import lines_of
from rdtops.contract.manifest import md5_of
from rdtops.contract.names import digest

CACHE = "~/.cache/rdtops/digests.jsonl"
ROW_BYTES = 1 << 16  # a path has 4096 bytes at most, six times that as JSON; what is longer is no row
YOUNG_S = 2.0


def remembered(paths: Iterable[Path], cache: str = CACHE) -> dict[Path, str]:
    """The MD5 of each; only files that the cache does not know as they are now are read."""
    file, paths = Path(cache).expanduser(), list(paths)
    found, rows = known(paths, cache), []
    for path in paths:
        if path in found:
            continue
        before = path.stat()
        found[path] = md5_of(path)
        if identity(path.stat()) == identity(before) and not is_young(before):
            rows.append(row_of(os.path.realpath(path), identity(before), found[path]))
    append(file, rows)
    return found


def known(paths: Iterable[Path], cache: str = CACHE) -> dict[Path, str]:
    """The MD5 of those that the cache knows as they are now. Nothing is read but the cache."""
    (rows, _), found = load(Path(cache).expanduser()), {}
    for path in paths:
        its_identity, md5 = rows.get(os.path.realpath(path), ([], ""))
        if md5 and its_identity == identity(path.stat()):
            found[path] = md5
    return found


def identity(status: os.stat_result) -> list[int]:
    """What a file keeps while nobody changes it: size, both times and inode. The time of the last change of the inode
    (ctime) belongs to it, since the kernel alone sets that one: a file written anew with its old time set back, as
    `cp -p` and `rsync -t` do it, may have got the same inode again."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_young(status: os.stat_result) -> bool:
    """It may change once more within one tick of its time."""
    return time.time() - status.st_mtime <= YOUNG_S


def row_of(path: str, its_identity: list[int], md5: str) -> str:
    return json.dumps([path, its_identity, md5], separators=(",", ":")) + "\n"


def load(file: Path | str) -> tuple[dict[str, tuple[list[int], str]], int]:
    """Path -> identity and MD5, and how many lines of the cache count no longer: superseded or broken ones."""
    known: dict[str, tuple[list[int], str]] = {}
    lines = 0
    with contextlib.suppress(OSError):
        for line in lines_of(file, ROW_BYTES):
            lines += 1
            with contextlib.suppress(ValueError, TypeError):  # a row that a full disk cut short, or no row at all
                name, its_identity, md5 = loads(line)
                if isinstance(name, str) and _is_identity(its_identity):
                    known[name] = (its_identity, digest(md5))
    return known, lines - len(known)


def _is_identity(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) is int for number in value)


def append(file: Path | str, rows: Iterable[str]) -> None:
    """A cache that cannot be written only costs time later."""
    text = "".join(rows)
    with contextlib.suppress(OSError):
        if text:
            os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
            locks.append(str(file), text)
