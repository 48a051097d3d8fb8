"""Corruptions: how a disk, an editor or a user damages a file that rdtops keeps or reads."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

WAYS: dict[str, Callable[[Path, bytes], object]] = {  # each gets a free path, and the former content
    "empty": lambda path, _: path.write_bytes(b""),
    "one byte": lambda path, content: path.write_bytes(content[:1] or b"{"),
    "its first half": lambda path, content: path.write_bytes(content[:len(content) // 2]),
    "random bytes": lambda path, _: path.write_bytes(random.Random(1).randbytes(600)),  # noqa: S311  # always the same
    "a number": lambda path, _: path.write_bytes(b"5\n"),
    "a list": lambda path, _: path.write_bytes(b"[]\n"),
    "wrong kinds": lambda path, content: path.write_bytes(of_other_kinds(content)),
    "deep nesting": lambda path, _: path.write_bytes(b"[" * 200_000 + b"\n"),
    "endless digits": lambda path, _: path.write_bytes(b"9" * 5000 + b"\n"),
    "not UTF-8": lambda path, content: path.write_bytes(content.replace(b"e", b"\xff\xfe") or b"\xff"),
    "a folder": lambda path, _: path.mkdir(),
    "a FIFO": lambda path, _: os.mkfifo(path),
    "nobody may read it": lambda path, _: path.touch(0),
}


def corrupt(path: Path, way: str) -> None:
    """Replace a file, which need not exist, by something damaged."""
    content = path.read_bytes() if path.is_file() else b""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    WAYS[way](path, content)


def of_other_kinds(content: bytes) -> bytes:
    """Return the JSON, or lines of it, with the same names and each value of another type."""
    values = re.compile(rb'(": |^|[\[,]\s*)("[^"\n]*"(?!:)|-?[0-9][0-9.e+-]*|true|false|null)', re.MULTILINE)
    others = [b"[1]", b'{"a": 1}', b'"text"', b"1e400", b"-7", b"null", b"true"]
    numbers = iter(range(1 << 30))

    def other(found: re.Match[bytes]) -> bytes:
        return found[1] + others[next(numbers) % len(others)]

    return values.sub(other, content)
