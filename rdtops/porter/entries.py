"""Entries: the shared types of both sides. An Entry is a file or a link below a root, a Problem is an error. Paths are
text: UTF-8 with surrogateescape, whatever the locale."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any, NamedTuple

from rdtops.hostlib import fields
from rdtops.hostlib.files import OURS
from rdtops.hostlib.names import BadName, digest, quoted, relative_path

BLOCK = 1 << 20
KINDS = ("file", "link", "folder")
FURTHEST_NS = 10 ** 9 << 40  # of a time from 1970, either way; a file system may store less
LINK_BYTES = 4096  # of a link's text

Message = dict[str, Any]


class Entry(NamedTuple):
    """A file or a link below a root. A root that is a file has the path ''."""

    path: str
    kind: str  # of KINDS; folders occur in a target only
    size: int  # 0 for a link and a folder
    md5: str  # of the content, or of the link's text; "" while it is not needed
    mtime_ns: int
    executable: bool
    link: str = ""
    holes: int = 0  # bytes of it that need no disk

    @classmethod
    def of(cls, value: object) -> Entry:
        """Parse an entry that came over the wire. Raise Problem."""
        row = fields.table(value)
        size = count(row, "size", fields.LARGEST)
        entry = cls(_entry_path(row), word(row, "kind"), size, _md5_or_none(row),
                    count(row, "mtime_ns", FURTHEST_NS, -FURTHEST_NS), flag(row, "executable"), word(row, "link"),
                    count(row, "holes", size))
        known = len(row) == len(entry) and entry.kind in KINDS and len(entry.link) <= LINK_BYTES
        if not known or bool(entry.link) != (entry.kind == "link") or (size and entry.kind != "file"):
            raise Problem("protocol", entry.path, "the fields of its entry contradict each other")
        return entry


class Problem(Exception):
    """An error of a transfer; sent as {"error": kind, "path", "reason", ...}. Of the kinds, "noise" is not a message,
    "protocol" an invalid message, and "unasked" a message that was not requested."""

    def __init__(self, kind: str, path: str, reason: str, **numbers: Any) -> None:
        super().__init__(f"{path}: {reason}")
        self.kind = kind
        self.path = path
        self.reason = reason
        self.numbers = numbers
        self.from_other_side = kind in ("noise", "protocol", "unasked")  # the other side is at fault

    def message(self) -> Message:
        return dict(self.numbers, error=self.kind, path=self.path, reason=self.reason)

    @classmethod
    def heard(cls, message: Message) -> Problem:
        """Return the problem that the other side reports; leave out invalid fields."""
        numbers: dict[str, Any] = {name: message[name] for name in ("missing_bytes", "free_bytes")
                                   if _is_count(message.get(name), 0, fields.LARGEST)}
        problem = cls(*(fields.text(message.get(name))[:LINK_BYTES] for name in ("error", "path", "reason")),
                      filesystem=fields.text(message.get("filesystem"))[:LINK_BYTES], **numbers)
        problem.from_other_side = True
        return problem


# --- the fields of a message: each function raises Problem for an invalid one ---

def count(message: Message, name: str, most: int, least: int = 0) -> int:
    """Return a whole number within bounds."""
    value: Any = message.get(name)
    if not _is_count(value, least, most):
        raise nonsense(message, name)
    return int(value)


def word(message: Message, name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not _is_plain(value):
        raise nonsense(message, name)
    return value


def flag(message: Message, name: str) -> bool:
    value = message.get(name)
    if not isinstance(value, bool):
        raise nonsense(message, name)
    return value


def md5_in(message: Message, name: str) -> str:
    try:
        return digest(message.get(name))
    except BadName:
        raise nonsense(message, name) from None


def nonsense(message: Message, name: str) -> Problem:
    """Return the Problem for an invalid or missing field `name`."""
    if name not in message:
        return Problem("protocol", "", f"unexpected message: expected {name!r}, got "
                       f"{', '.join(quoted(key, 20) for key in list(message)[:3]) or 'nothing'}")
    value = message[name]
    got = "a " + type(value).__name__ if isinstance(value, (dict, list)) else quoted(value)  # may be nested too deeply
    return Problem("protocol", "", f"unexpected message: {name!r} is {got}")


def unasked(message: Message) -> Problem:
    """Return the Problem for a message that was not requested."""
    key = next(iter(message), "")
    value = message.get(key)
    name = value.get("path") if isinstance(value, dict) else value
    words = f"{quoted(key, 20)}: {quoted(name)}" if isinstance(name, str) else quoted(key, 20)
    return Problem("unasked", "", f"unexpected message: {words}, which was not requested")


def raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def place(root: str, path: str) -> bytes:
    """Return the absolute place of a relative path. Raise Problem for one that leads out of the root: names come from
    another machine."""
    return os.path.join(raw(root), raw(_below(path))) if path else raw(root)


def file_entry(path: str, status: os.stat_result, holes: int = 0) -> Entry:
    return Entry(path, "file", status.st_size, "", status.st_mtime_ns, bool(status.st_mode & 0o100), "", holes)


def link_entry(path: str, link: str, status: os.stat_result) -> Entry:
    return Entry(path, "link", 0, hashlib.md5(raw(link)).hexdigest(), status.st_mtime_ns, False, link)


def refuse_leaving(path: str, link: str) -> None:
    """Raise Problem for a link whose text leads out of its tree."""
    depth = path.count("/")
    for step in link.split("/"):
        depth += -1 if step == ".." else step not in ("", ".")
        if depth < 0:
            break
    if link.startswith("/") or depth < 0:
        raise Problem("link", path, f"it is a link to {link}, which is outside of the folder")


def _entry_path(message: Message) -> str:
    """Return the path of a file below the root, or '' for the root itself."""
    path = word(message, "path")
    if path and any(step.startswith(OURS) for step in _below(path).split("/")):
        raise Problem("name", path, f"names that begin with {OURS} are reserved for parts and locks")
    return path


def _below(path: str) -> str:
    try:
        return relative_path(path)
    except BadName as error:
        raise Problem("name", "", str(error)) from None


def _md5_or_none(message: Message) -> str:
    return "" if message.get("md5") == "" else md5_in(message, "md5")


def _is_plain(value: str) -> bool:
    """Return whether `text` would write it the same: no two texts may be the same name on the disk."""
    try:
        return value.isascii() or text(raw(value)) == value
    except UnicodeEncodeError:
        return False


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def mount_point(path: str) -> str:
    """Return the mount point of the file system where `path` is, or would be; '' when it is not absolute."""
    nearest = os.path.realpath(raw(path)) if path.startswith("/") else b""
    while nearest and not os.path.ismount(nearest):
        nearest = os.path.dirname(nearest)
    return text(nearest)


def problem_of(error: OSError, path: str = "", place: str = "") -> Problem:
    """Return the Problem for an OSError. `path`: its file, where the error names none; `place`: where it happened, when
    that is another path."""
    named = error.filename
    where = text(named) if isinstance(named, bytes) else str(named or path)
    if is_full(error):
        reason = "the disk is full" if error.errno == errno.ENOSPC else "the quota is used up"
        return Problem("full", where, reason, filesystem=mount_point(place or where))
    words = {errno.EROFS: "the file system is read-only", errno.EACCES: "permission denied",
             errno.ENOENT: "no such file or folder"}
    return Problem("os", where, words.get(error.errno or 0, error.strerror or str(error)))
