"""Tails: read growing files from a cursor on, also after they were truncated or rotated.

A cursor is [inode, offset, mark]; the mark is a digest of the last bytes before the offset, so that a file that was
truncated and has grown beyond the offset since is not taken for the same file. Where a file was rotated (to
journal.jsonl.1, say), the rest of the old one is read first.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from typing import Any, BinaryIO, Iterator, List, Tuple

from rdtops.hostlib.fields import loads
from rdtops.hostlib.files import LINE_BYTES, opened

PIECE = 1 << 20
BLOCK = 1 << 16
MARK = 64  # bytes before the offset that identify a file
REST = 1 << 13  # of a line that is not complete
EVENT = b'{"kind": "'
STEP = b'{"kind": "step"'
STARTS = (b'{"kind": "launched"', b'{"kind": "started"')
KEPT = b'{"kind": "checkpoint"'  # also from before the last start
LONGEST_SEARCH = 1 << 26  # bytes from the end of a Journal that are searched for its last events
TOLD_BYTES = 1 << 18  # of those events together
GROWN_BYTES = 48 << 20  # a log of 16 MiB, whose characters JSON may write as six
SPIKES = 16  # steps of a thinned curve, among whose neighbours the extremes are kept as well
NUMBER = rb'": (-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?)[,}]'
EXTREMES = ((re.compile(b'"loss' + NUMBER), max), (re.compile(b'"grad_norm' + NUMBER), max),
            (re.compile(b'"samples_per_s' + NUMBER), min))
PART = 5 << 16  # of base 85, a multiple of five

Lines = List[Tuple[int, bytes]]  # the offset behind a line, and the line with its newline


def mark_of(content: bytes) -> str:
    """Return the mark of the bytes that end at an offset; as many of them as there are, up to MARK."""
    end = content[-MARK:]
    return f"{len(end)}:{hashlib.md5(end).hexdigest()[:12]}" if end else ""


def read_on(path: str, cursor: list[Any], limit: int = PIECE, last_lines: int = -1) -> dict[str, Any]:
    """Read the complete lines after the cursor, at most about `limit` bytes of them: {"lines", "rest", "cursor",
    "more"}. The cursor is the new one, after the lines; the rest is of a line that is not complete. `last_lines`: read
    so many from the end, whatever the cursor is. A line longer than `limit` comes in parts."""
    inode, offset, mark = int(cursor[0]), int(cursor[1]), str(cursor[2])
    for name, moved in candidates(path, inode, offset, mark):
        try:
            with open(opened(name), "rb") as file:
                status = os.fstat(file.fileno())
                if last_lines >= 0:
                    offset = start_of_last(file, status.st_size, last_lines)
                file.seek(offset)
                content = file.read(limit)
                file.seek(max(0, offset - MARK))
                before = file.read(offset - file.tell())
        except OSError:
            continue
        is_full = limit > 0 and len(content) == limit
        end = content.rfind(b"\n") + 1 or (len(content) if is_full else 0)
        if moved and limit and not end and os.path.exists(path):
            continue  # the rotated file is read to its end
        more = end > 0 and (moved or is_full)
        return {"lines": split(content[:end], offset), "rest": content[end:][:REST], "more": more,
                "cursor": [status.st_ino, offset + end, mark_of(before + content[:end])]}
    if os.path.exists(path) and (inode or offset):
        return read_on(path, [0, 0, ""], limit)
    return {"lines": [], "rest": b"", "cursor": [inode, offset, mark], "more": False}


def candidates(path: str, inode: int, offset: int, mark: str) -> Iterator[tuple[str, bool]]:
    """Yield the files that may be the one that was read, and whether it was moved."""
    if is_the_one(path, inode, offset, mark):
        yield path, False
        return
    if not offset:
        return
    folder, base = os.path.split(path)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    siblings = [os.path.join(folder, n) for n in names if n.startswith(base + ".") and not n.endswith(".gz")]
    for name in siblings:  # the same file under another name, else a copy of it, as `copytruncate` makes
        if is_the_one(name, inode, offset, mark):
            yield name, True
    for name in siblings:
        if mark and not is_the_one(name, inode, offset, mark) and is_the_one(name, 0, offset, mark):
            yield name, True


def is_the_one(path: str, inode: int, offset: int, mark: str) -> bool:
    """Return whether a file is the one of a cursor. `inode` 0: any inode."""
    try:
        with open(opened(path), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size < offset or (inode and status.st_ino != inode):
                return False
            if not mark:
                return True
            file.seek(offset - int(mark.partition(":")[0]))
            return mark_of(file.read(offset - file.tell())) == mark
    except (OSError, ValueError):
        return False


def split(content: bytes, offset: int) -> Lines:
    found = []
    for line in content.splitlines(True) if b"\r" not in content else keep_returns(content):
        offset += len(line)
        found.append((offset, line))
    return found


def keep_returns(content: bytes) -> list[bytes]:
    """Split into lines at newlines only: progress bars are full of carriage returns."""
    parts = [part + b"\n" for part in content.split(b"\n")]
    return [*parts[:-1], *([parts[-1][:-1]] if parts[-1] != b"\n" else [])]


def start_of_last(file: BinaryIO, size: int, count: int) -> int:
    """Return where the last `count` lines begin, or the last LONGEST_SEARCH bytes when those are fewer."""
    end, seen = size, 0
    while end > max(0, size - LONGEST_SEARCH):
        start = max(0, end - BLOCK)
        file.seek(start)
        block = file.read(end - start)
        at = len(block) - (1 if end == size and block.endswith(b"\n") else 0)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            seen += 1
            if seen == count:
                return start + at + 1
        end = start
    return end if count else size


def thinned(lines: Lines, most: int, ignored: tuple[bytes, ...] = ()) -> Lines:
    """Return all events except `ignored` ones, and about `most` of the steps: evenly spread, with the last one, and the
    EXTREMES of each SPIKES that lie between, so that a curve of them has the peaks of the curve of all."""
    lines = [row for row in lines if not row[1].startswith(ignored)] if ignored else lines
    steps = [row for row in lines if row[1].startswith(STEP)]
    if len(steps) <= most:
        return lines
    every = -(-len(steps) // most)
    kept = {offset for offset, _ in steps[::-1][::every]}
    for start in range(0, len(steps), SPIKES * every):
        kept.update(extremes(steps[start:start + SPIKES * every]))
    return [row for row in lines if not row[1].startswith(STEP) or row[0] in kept]


def extremes(steps: Lines) -> Iterator[int]:
    """Yield the offsets of the step events with the highest loss and gradient norm, and the lowest speed."""
    for field, choose in EXTREMES:
        told = ((field.search(line), offset) for offset, line in steps)
        values = [(float(match[1]), offset) for match, offset in told if match]
        if values:
            yield choose(values)[1]


def rows_of(lines: Lines) -> list[list[Any]]:
    """Return lines for JSON, whatever bytes they have."""
    return [[offset, line.decode("utf-8", "surrogateescape")] for offset, line in lines]


def lines_of(rows: list[list[Any]]) -> Lines:
    return [(int(offset), text.encode("utf-8", "surrogateescape")) for offset, text in rows]


def shrunk(value: Any) -> str:
    """Return compressed JSON for a slow line: a Journal becomes an eighth."""
    return base64.b85encode(zlib.compress(json.dumps(value).encode(), 6)).decode()


def grown(text: object) -> Any:
    """Return the value of a shrunk text. Raise ValueError for any other text, and for more than GROWN_BYTES of JSON."""
    if not isinstance(text, str):
        raise ValueError("compressed JSON must be a string")
    content, unpacker = bytearray(), zlib.decompressobj()
    for start in range(0, len(text), PART):
        try:
            content += unpacker.decompress(base64.b85decode(text[start:start + PART]), GROWN_BYTES + 1 - len(content))
        except zlib.error as error:
            raise ValueError(f"the compressed JSON is invalid: {error}") from None
        if len(content) > GROWN_BYTES:
            raise ValueError(f"more than {GROWN_BYTES} bytes of JSON")
    if not unpacker.eof:
        raise ValueError("the compressed JSON is cut off")
    return loads(content.decode("ascii"))


def backwards(path: str, limit: int = LONGEST_SEARCH) -> Iterator[bytes]:
    """Yield the complete lines of a file, the last one first; skip an incomplete line, and one of more than
    LINE_BYTES."""
    try:
        with open(opened(path), "rb") as file:
            end = os.fstat(file.fileno()).st_size
            stop, tail = max(0, end - limit), b""
            is_left_out = True  # the line that ends with `tail`
            while end > stop:
                start = max(stop, end - BLOCK)
                file.seek(start)
                parts = (file.read(end - start) + tail).split(b"\n")
                if is_left_out:
                    parts, is_left_out = parts[:-1] if len(parts) > 1 else [b""], len(parts) == 1
                tail, end = parts[0], start
                yield from reversed(parts[1:])
                if len(tail) > LINE_BYTES:
                    tail, is_left_out = b"", True
            if tail and not is_left_out and stop == 0:
                yield tail
    except OSError:
        return


def last_of_each_kind(path: str, ignored: tuple[bytes, ...]) -> list[str]:
    """Return the last line of every kind of event since the newest start of a run, in the order of the file; for
    checkpoints the last one of all. The result is short, however long the file is."""
    found: dict[bytes, bytes] = {}
    is_started = False
    room = TOLD_BYTES
    for line in backwards(path):
        kind = line[:48].partition(b",")[0]
        if line.startswith(ignored) or not line.startswith(EVENT) or kind in found or (is_started and kind != KEPT):
            continue
        room -= len(line)
        if room < 0:
            break
        found[kind] = line
        is_started = is_started or kind in STARTS
        if is_started and KEPT in found:
            break
    return [line.decode("utf-8", "replace") for line in reversed(list(found.values()))]
