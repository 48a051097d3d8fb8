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
from pathlib import Path
from typing import Iterable

from rdtops.contract import locks
from rdtops.contract.fields import loads
from rdtops.contract.files import lines_of
from rdtops.contract.manifest import md5_of
from rdtops.contract.names import digest

CACHE = "~/.cache/rdtops/digests.jsonl"
ROW_BYTES = 1 << 16  # a path has 4096 bytes at most, six times that as JSON; what is longer is no row
_YOUNG_S = 2.0  # a file may change once more within one tick of its time


def remembered(paths: Iterable[Path], cache: str = CACHE) -> dict[Path, str]:
    """The MD5 of each; only files that the cache does not know as they are now are read."""
    file, paths = Path(cache).expanduser(), list(paths)
    found, rows = known(paths, cache), []
    for path in paths:
        if path in found:
            continue
        identity = _identity(path)
        found[path] = md5_of(path)
        if _identity(path) == identity and time.time() - path.stat().st_mtime > _YOUNG_S:
            row = [os.path.realpath(path), identity, found[path]]
            rows.append(json.dumps(row, separators=(",", ":")) + "\n")
    append(file, rows)
    return found


def known(paths: Iterable[Path], cache: str = CACHE) -> dict[Path, str]:
    """The MD5 of those that the cache knows as they are now. Nothing is read but the cache."""
    (rows, _), found = load(Path(cache).expanduser()), {}
    for path in paths:
        identity, md5 = rows.get(os.path.realpath(path), ([], ""))
        if md5 and identity == _identity(path):
            found[path] = md5
    return found


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def load(file: Path | str) -> tuple[dict[str, tuple[list[int], str]], int]:
    """Path -> identity and MD5, and how many lines of the cache count no longer: superseded or broken ones."""
    known: dict[str, tuple[list[int], str]] = {}
    lines = 0
    with contextlib.suppress(OSError):
        for line in lines_of(file, ROW_BYTES):
            lines += 1
            with contextlib.suppress(ValueError, TypeError):  # a row that a full disk cut short, or no row at all
                name, identity, md5 = loads(line)
                if isinstance(name, str) and _is_identity(identity):
                    known[name] = (identity, digest(md5))
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
