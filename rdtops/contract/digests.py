"""MD5 sums of files, remembered by path, size, time and inode: an unchanged gigabyte costs a stat.

The file is the one that transfers keep on both machines (rdtops.remote.far.digests), a JSON row for each file, later
rows win. So what a deploy has read or written is known here too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from rdtops.contract.manifest import md5_of

CACHE = "~/.cache/rdtops/digests.jsonl"
_YOUNG_S = 2.0  # a file may change once more within one tick of its time


def remembered(paths: Iterable[Path], cache: str = CACHE) -> dict[Path, str]:
    """The MD5 of each; only files that the cache does not know as they are now are read."""
    file = Path(cache).expanduser()
    known, rows, found = _load(file), [], {}
    for path in paths:
        name, identity = os.path.realpath(path), _identity(path)
        md5 = known.get(name, ([], ""))[1] if known.get(name, ([], ""))[0] == identity else ""
        found[path] = md5 or md5_of(path)
        if not md5 and _identity(path) == identity and time.time() - path.stat().st_mtime > _YOUNG_S:
            rows.append(json.dumps([name, identity, found[path]], separators=(",", ":")) + "\n")
    _append(file, rows)
    return found


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


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
            with file.open("a", encoding="ascii") as out:
                fcntl.flock(out, fcntl.LOCK_EX)
                out.write("".join(rows))
