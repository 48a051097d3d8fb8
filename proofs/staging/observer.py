"""Observer: detects every file that ever had wrong content under its final name. It uses inotify, so that it misses
nothing between two polls.

    python -m proofs.staging.observer FOLDER EXPECTED.json

EXPECTED.json has the MD5 of each final name in the folder. It prints `ready`, watches until its input ends, and then
prints its observations as JSON: {"appeared": 3, "wrong": ["big: appeared with another MD5"]}.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from rdtops.errors import LabError

_MODIFY, _MOVED_TO, _CREATE, _OVERFLOW = 0x2, 0x80, 0x100, 0x4000  # from sys/inotify.h
_HEAD = struct.Struct("iIII")


@dataclass
class Seen:
    appeared: int = 0
    wrong: list[str] = field(default_factory=list)


class Observer:
    """The handle of the watching process."""

    def __init__(self, folder: Path, expected: Path) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "proofs.staging.observer", str(folder), str(expected)],
                                         cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise LabError(f"nothing watches {folder}: the observer ended ({self._process.wait()})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def end(self) -> Seen:
        """End it. Return its observations."""
        told, _ = self._process.communicate(timeout=60)
        return Seen(**json.loads(told))


def _watch(folder: Path, expected: Mapping[str, str]) -> Seen:
    seen = Seen()
    events = _inotify(folder)
    _tell("ready")
    try:
        while select.select([events, sys.stdin], [], [])[0] != [sys.stdin]:
            _take(events, folder, expected, seen)
        while select.select([events], [], [], 0)[0]:
            _take(events, folder, expected, seen)
    finally:
        os.close(events)
    return seen


def _take(events: int, folder: Path, expected: Mapping[str, str], seen: Seen) -> None:
    for mask, name in _parsed(os.read(events, 1 << 16)):
        if mask & _OVERFLOW:
            seen.wrong.append("events were lost: it cannot be said that nothing was wrong")
        elif name in expected:
            _judge(mask, folder / name, expected[name], seen)


def _judge(mask: int, path: Path, md5: str, seen: Seen) -> None:
    if mask & _MODIFY:
        seen.wrong.append(f"{path.name}: written under its final name")
        return
    try:
        found = hashlib.md5(path.read_bytes()).hexdigest()
    except FileNotFoundError:  # and gone again
        return
    seen.appeared += 1
    if found != md5:
        seen.wrong.append(f"{path.name}: appeared with another MD5")


def _inotify(folder: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    events: int = libc.inotify_init1(os.O_CLOEXEC)
    if events < 0 or libc.inotify_add_watch(events, os.fsencode(folder), _MODIFY | _MOVED_TO | _CREATE) < 0:
        raise OSError(ctypes.get_errno(), f"inotify: {os.strerror(ctypes.get_errno())}", str(folder))
    return events


def _parsed(data: bytes) -> Iterator[tuple[int, str]]:
    start = 0
    while start < len(data):
        _, mask, _, length = _HEAD.unpack_from(data, start)
        start += _HEAD.size
        yield mask, os.fsdecode(data[start:start + length].rstrip(b"\0"))
        start += length


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    folder, expected = sys.argv[1:]
    _tell(json.dumps(asdict(_watch(Path(folder), json.loads(Path(expected).read_text())))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
