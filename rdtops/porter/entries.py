"""What both sides call things: an Entry is a file or a link below a root, a Problem is why it cannot go on. Paths are
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
FURTHEST_NS = 10 ** 9 << 40  # of a time from 1970, either way; a file system that cannot keep it keeps its own furthest
LINK_BYTES = 4096  # of a link's text

Message = dict[str, Any]


class Entry(NamedTuple):
    """A file or a link below a root. A root that is a file has the path ''."""

    path: str
    kind: str  # of KINDS; folders are seen in a target only
    size: int  # 0 for a link and a folder
    md5: str  # of the content, or of the link's text; "" while nobody needs to know it
    mtime_ns: int
    executable: bool
    link: str = ""
    holes: int = 0  # bytes of it that need no disk

    @classmethod
    def of(cls, value: object) -> Entry:
        """An entry that came over the wire. Raises Problem."""
        said = fields.table(value)
        size = count(said, "size", fields.LARGEST)
        entry = cls(_entry_path(said), word(said, "kind"), size, _md5_or_none(said),
                    count(said, "mtime_ns", FURTHEST_NS, -FURTHEST_NS), flag(said, "executable"), word(said, "link"),
                    count(said, "holes", size))
        known = len(said) == len(entry) and entry.kind in KINDS and len(entry.link) <= LINK_BYTES
        if not known or bool(entry.link) != (entry.kind == "link") or (size and entry.kind != "file"):
            raise Problem("protocol", entry.path, "what is said of it does not go together")
        return entry


class Problem(Exception):
    """Why it cannot go on; travels as {"error": kind, "path", "reason", ...}. Of the kinds, "noise" is no message at
    all, "protocol" a message that makes no sense where it stands, and "unasked" one that nobody asked for."""

    def __init__(self, kind: str, path: str, reason: str, **numbers: Any) -> None:
        super().__init__(f"{path}: {reason}")
        self.kind = kind
        self.path = path
        self.reason = reason
        self.numbers = numbers
        self.from_other_side = kind in ("noise", "protocol", "unasked")  # it is the one to name

    def message(self) -> Message:
        return dict(self.numbers, error=self.kind, path=self.path, reason=self.reason)

    @classmethod
    def heard(cls, message: Message) -> Problem:
        """What the other side says; fields that make no sense are left out."""
        numbers: dict[str, Any] = {name: message[name] for name in ("missing_bytes", "free_bytes")
                                   if _is_count(message.get(name), 0, fields.LARGEST)}
        problem = cls(*(fields.text(message.get(name))[:LINK_BYTES] for name in ("error", "path", "reason")),
                      filesystem=fields.text(message.get("filesystem"))[:LINK_BYTES], **numbers)
        problem.from_other_side = True
        return problem


# --- the words of a message: each raises Problem for what is none of its kind ---

def count(message: Message, name: str, most: int, least: int = 0) -> int:
    """A whole number within bounds."""
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
    """What it says of `name` makes no sense, or it says something else."""
    if name not in message:
        return Problem("protocol", "", f"it says {', '.join(quoted(key, 20) for key in list(message)[:3]) or 'nothing'}"
                       f" where {name!r} is due")
    value = message[name]
    said = "a " + type(value).__name__ if isinstance(value, (dict, list)) else quoted(value)  # may be nested too deeply
    return Problem("protocol", "", f"it says {said} for {name!r}")


def unasked(message: Message) -> Problem:
    """It says something that we did not ask for."""
    said = next(iter(message), "")
    value = message.get(said)
    name = value.get("path") if isinstance(value, dict) else value
    words = f"{quoted(said, 20)}: {quoted(name)}" if isinstance(name, str) else quoted(said, 20)
    return Problem("unasked", "", f"it sends {words}, which was not asked for")


def raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def place(root: str, path: str) -> bytes:
    """Where a relative path lies. Raises Problem for one that leads out: names come from another machine."""
    return os.path.join(raw(root), raw(_below(path))) if path else raw(root)


def file_entry(path: str, status: os.stat_result, holes: int = 0) -> Entry:
    return Entry(path, "file", status.st_size, "", status.st_mtime_ns, bool(status.st_mode & 0o100), "", holes)


def link_entry(path: str, link: str, status: os.stat_result) -> Entry:
    return Entry(path, "link", 0, hashlib.md5(raw(link)).hexdigest(), status.st_mtime_ns, False, link)


def refuse_leaving(path: str, link: str) -> None:
    """Raises Problem for a link whose text leads out of the tree that it is part of."""
    depth = path.count("/")
    for step in link.split("/"):
        depth += -1 if step == ".." else step not in ("", ".")
        if depth < 0:
            break
    if link.startswith("/") or depth < 0:
        raise Problem("link", path, f"it is a link to {link}, which leads out of the folder")


def _entry_path(message: Message) -> str:
    """Of a file of somebody's: below the root, or '' for the root itself."""
    path = word(message, "path")
    if path and any(step.startswith(OURS) for step in _below(path).split("/")):
        raise Problem("name", path, f"names that begin with {OURS} are of parts and locks")
    return path


def _below(path: str) -> str:
    try:
        return relative_path(path)
    except BadName as error:
        raise Problem("name", "", str(error)) from None


def _md5_or_none(message: Message) -> str:
    return "" if message.get("md5") == "" else md5_in(message, "md5")


def _is_plain(value: str) -> bool:
    """Whether it is how `text` would write it: no two texts are the same name on the disk."""
    try:
        return value.isascii() or text(raw(value)) == value
    except UnicodeEncodeError:
        return False


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def mount_point(path: str) -> str:
    """Of the file system on which `path` is, or would be; '' when it is not absolute."""
    nearest = os.path.realpath(raw(path)) if path.startswith("/") else b""
    while nearest and not os.path.ismount(nearest):
        nearest = os.path.dirname(nearest)
    return text(nearest)


def problem_of(error: OSError, path: str = "", place: str = "") -> Problem:
    """`path` is what it is about, where the error does not say; `place` where it happened, when that is another."""
    named = error.filename
    where = text(named) if isinstance(named, bytes) else str(named or path)
    if is_full(error):
        reason = "the disk is full" if error.errno == errno.ENOSPC else "the quota is used up"
        return Problem("full", where, reason, filesystem=mount_point(place or where))
    words = {errno.EROFS: "the file system is read-only", errno.EACCES: "permission denied",
             errno.ENOENT: "there is no such file or folder"}
    return Problem("os", where, words.get(error.errno or 0, error.strerror or str(error)))
