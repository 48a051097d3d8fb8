"""What both sides call things: an Entry is a file or a link below a root, a Problem is why it cannot go on. Paths are
text: UTF-8 with surrogateescape, whatever the locale."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any, Dict, NamedTuple

from rdtops.contract.fields import text as text_or_nothing
from rdtops.contract.fields import whole

OURS = ".rdtops-"  # parts and locks; never taken for somebody's file
BLOCK = 1 << 20

Message = Dict[str, Any]


class Entry(NamedTuple):
    """A file or a link below a root. A root that is a file has the path ''."""

    path: str
    kind: str  # "file" or "link"
    size: int  # 0 for a link
    md5: str  # of the content, or of the link's text; "" while nobody needs to know it
    mtime_ns: int
    executable: bool
    link: str = ""
    holes: int = 0  # bytes of it that need no disk


class Problem(Exception):
    """Why it cannot go on; travels as {"error": kind, "path", "reason", ...}."""

    def __init__(self, kind: str, path: str, reason: str, **numbers: Any) -> None:
        super().__init__(f"{path}: {reason}")
        self.kind = kind
        self.path = path
        self.reason = reason
        self.numbers = numbers
        self.from_other_side = False

    def message(self) -> Message:
        return dict(self.numbers, error=self.kind, path=self.path, reason=self.reason)

    @classmethod
    def heard(cls, message: Message) -> Problem:
        kind, path, reason, filesystem = (text_or_nothing(message.get(word)) for word in (
            "error", "path", "reason", "filesystem"))
        numbers = {word: whole(message.get(word)) or 0 for word in ("missing_bytes", "free_bytes")}
        problem = cls(kind, path, reason, **numbers, filesystem=filesystem)
        problem.from_other_side = True
        return problem


def raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def place(root: str, path: str) -> bytes:
    """Where a relative path lies. Raises Problem for one that leads out: names come from another machine."""
    if not path:
        return raw(root)
    if path.startswith("/") or "\0" in path or any(step in ("", ".", "..") for step in path.split("/")):
        raise Problem("name", path, "it is not a path below a folder")
    return os.path.join(raw(root), raw(path))


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
