"""MD5 sums of files, remembered by path, size, times and inode: an unchanged gigabyte costs a stat.

The file is the one that transfers keep on both machines (rdtops.remote.far.digests), a JSON row for each file, later
rows win. So what a deploy has read or written is known here too.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from rdtops.contract import locks
from rdtops.contract.manifest import md5_of

CACHE = "~/.cache/rdtops/digests.jsonl"
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
    _append(file, rows)
    return found


def known(paths: Iterable[Path], cache: str = CACHE) -> dict[Path, str]:
    """The MD5 of those that the cache knows as they are now. Nothing is read but the cache."""
    rows, found = _load(Path(cache).expanduser()), {}
    for path in paths:
        identity, md5 = rows.get(os.path.realpath(path), ([], ""))
        if md5 and identity == _identity(path):
            found[path] = md5
    return found


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _load(file: Path) -> dict[str, tuple[list[int], str]]:
    known = {}
    with contextlib.suppress(OSError), file.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # a row that a full disk cut short
                name, identity, md5 = json.loads(line)
                known[name] = (identity, md5)
    return known


def _append(file: Path, rows: list[str]) -> None:
    """A cache that cannot be written only costs time later."""
    with contextlib.suppress(OSError):
        if rows:
            file.parent.mkdir(parents=True, exist_ok=True)
            locks.append(str(file), "".join(rows))
