"""Both sides of a transfer: one file, standard library, Python 3.8. The control side imports these same functions for
its own files, so the two sides cannot disagree about names, digests or what "complete" means.

A request is one JSON line: {"do": "scan" | "survey" | "receive" | "send" | "commit" | "space", ...}. After it both
sides speak JSON lines; {"bytes": n} is followed by n raw bytes. A sender says, file after file, without waiting:

    {"file": entry, "ask": true?}   with "ask" the receiver answers {"part": bytes, "md5": of them}
    {"from": offset} ({"bytes": n} raw)* {"sent": md5}
    {"link": entry}   {"copy": entry, "of": path on the receiver's machine}
    {"flush": true}   answered by {"flushed": true} when all before it is on the disk under its final name
    {"end": true}

and the receiver says {"done": path, "md5": ...} per file, or {"refused": path} for a copy whose origin is not what the
plan believed. Either side may say {"error": kind, "path": ..., "reason": ...} and stop, and says {"alive": true} while
it works without a word. Paths are text: UTF-8 with surrogateescape, whatever the locale.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, NamedTuple, Sequence

OURS = ".rdtops-"  # parts and locks; never taken for somebody's file
PART = OURS + "part-"
LOCK = OURS + "lock-"
CACHE = "~/.cache/rdtops/digests.jsonl"
BLOCK = 1 << 20
ASK_FROM = 1 << 26  # a file of this size asks for its part even when the plan saw none: the plan may be old
BATCH_FILES, BATCH_BYTES = 128, 1 << 25  # small files go to the disk together: one fsync after the other is slow
BEAT_S = 5.0
IDLE_S = 30.0  # the other side beats; when it has been silent for so long it is gone, and its lock with it
STUCK_S = 300.0  # no block read and no beat after that: a dead file system must not look alive

Message = Dict[str, Any]


class Entry(NamedTuple):
    """A file or a link below a root. A root that is a file has the path ''."""

    path: str
    kind: str  # "file" or "link"
    size: int  # 0 for a link
    md5: str  # of the content, or of the link's text; "" when not asked for
    mtime_ns: int
    executable: bool
    link: str = ""


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
        fields = dict(message)
        problem = cls(fields.pop("error"), fields.pop("path", ""), fields.pop("reason", ""), **fields)
        problem.from_other_side = True
        return problem


# --- what is there ---

def scan(root: str, files: Sequence[str] | None = None) -> Iterator[Entry]:
    """Files and links at or below `root`, or of those names only, without digests. Empty folders do not count.

    Raises Problem for a link that leads out of the tree, and for what is neither file, folder nor link.
    """
    top = raw(root)
    status = _stat(top)
    if not stat.S_ISDIR(status.st_mode):
        yield _entry(top, "", status)
    elif files is None:
        yield from _walk(top, "")
    else:
        for name in files:
            status = os.lstat(place(root, name))
            yield from _walk(top, name) if stat.S_ISDIR(status.st_mode) else [_entry(top, name, status)]


def digested(root: str, entry: Entry, digests: Digests) -> Entry:
    """The entry with its MD5, from the cache where that may be trusted. Links carry theirs already."""
    return entry if entry.md5 else entry._replace(md5=digests.of(place(root, entry.path), entry.size))


def all_digested(root: str, entries: Iterable[Entry], digests: Digests) -> Iterator[Entry]:
    """Every file of the entries with its MD5; large ones are read side by side."""
    every = list(entries)
    with ThreadPoolExecutor(4) as pool:
        large = pool.map(lambda entry: digested(root, entry, digests), [e for e in every if e.size >= BLOCK])
        for entry in every:
            yield next(large) if entry.size >= BLOCK else digested(root, entry, digests)


def survey(root: str, wanted: Sequence[tuple[str, int]], digests: Digests, basis: str = "") -> Iterator[Message]:
    """What a target holds of the wanted (path, size): {"there": entry}, digested only where the size is equal, {"part":
    path, "size": n} for what was begun, and {"basis": entry} for files of another folder that may be copied."""
    sizes = dict(wanted)
    there = {entry.path: entry for entry in (_there(root, path) for path in sizes) if entry is not None}
    alike = {path for path, entry in there.items() if entry.kind == "file" and entry.size == sizes[path]}
    for path in there.keys() - alike:
        yield {"there": there[path]._asdict()}
    for entry in all_digested(root, [there[path] for path in there if path in alike], digests):
        yield {"there": entry._asdict()}
    folders = {path.rpartition("/")[0] for path in sizes}
    lacking = {size for path, size in sizes.items() if path not in alike and size}
    for folder in folders:
        for name, size in _parts(_folder_of(root, folder)):
            yield {"part": text(name), "folder": folder, "size": size}
    if basis and os.path.isdir(raw(basis)):
        for entry in all_digested(basis, [e for e in scan_leniently(basis) if e.size in lacking], digests):
            yield {"basis": entry._asdict()}


def scan_leniently(root: str) -> Iterator[Entry]:
    """Regular files only: what else lies in a basis does not matter."""
    for folder, _, names in os.walk(raw(root)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and not name.startswith(raw(OURS)):
                yield _file_entry(text(os.path.relpath(path, raw(root))), status)


def space(path: str) -> tuple[int, int]:
    """Free bytes and free inodes where `path` is or would be. Inodes are -1 where they are not counted."""
    nearest = os.path.abspath(raw(path))
    while not os.path.exists(nearest):
        nearest = os.path.dirname(nearest)
    free = os.statvfs(nearest)
    return free.f_bavail * free.f_frsize, free.f_favail if free.f_files else -1


def part_name(path: str, size: int, md5: str) -> str:
    """The name a file has until it is complete: of its target, then of its content."""
    name = hashlib.md5(raw(path.rpartition("/")[2])).hexdigest()[:12]
    content = hashlib.md5(b"%d %s" % (size, md5.encode())).hexdigest()[:12]
    return f"{PART}{name}-{content}"


class Digests:
    """MD5 sums remembered by (path, size, mtime_ns, inode): one JSON row per file, appended, later rows win."""

    def __init__(self, cache: str = "", trust: bool = True, read_only: bool = False) -> None:
        self._file = os.path.expanduser(cache)
        self._trust = trust
        self._read_only = read_only
        self._rows: dict[str, tuple[list[int], str]] = {}
        self._new: list[str] = []
        self._superseded = 0
        if self._file:
            self._load()

    def of(self, path: bytes, size: int) -> str:
        """The MD5 of the first `size` bytes of a file; reads them unless the cache knows them and is trusted.

        Logs grow while they are read, and what they were is still true. Raises Problem for any other change.
        """
        known = self._rows.get(text(os.path.realpath(path)))
        if self._trust and known and known[0] == _identity(os.stat(path)) and known[0][0] == size:
            return known[1]
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            md5: str = _md5(file, size).hexdigest()
            after = os.fstat(file.fileno())
        if after.st_size < size or (after.st_size == size and _identity(before) != _identity(after)):
            raise Problem("changed", text(path), "it changed while it was read")
        if after.st_size == size and time.time() - after.st_mtime > 2.0:  # a younger one may change within one tick
            self.learn(path, after, md5)
        return md5

    def learn(self, path: bytes, status: os.stat_result, md5: str) -> None:
        name = text(os.path.realpath(path))
        row = (_identity(status), md5)
        if self._rows.get(name) != row:
            self._superseded += name in self._rows
            self._rows[name] = row
            self._new.append(_row(name, row))

    def save(self) -> None:
        """Append what was learnt. A cache that cannot be written only costs time later, so that is no error."""
        if not self._file or self._read_only or not self._new:
            return
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._file) or ".", exist_ok=True)
            if self._superseded > len(self._rows) + 1000:
                self._rewrite()
            else:
                with open(self._file, "a", encoding="ascii") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    file.write("".join(self._new))
        self._new = []

    def _load(self) -> None:
        with contextlib.suppress(OSError), open(self._file, encoding="ascii", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):  # a row that a full disk cut short
                    name, identity, md5 = json.loads(line)
                    self._superseded += name in self._rows
                    self._rows[name] = (identity, md5)

    def _rewrite(self) -> None:
        fresh = f"{self._file}.{os.getpid()}"
        with open(fresh, "w", encoding="ascii") as file:
            file.write("".join(_row(name, row) for name, row in self._rows.items()))
        os.replace(fresh, self._file)


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _row(name: str, row: tuple[list[int], str]) -> str:
    return json.dumps([name, *row], separators=(",", ":")) + "\n"


def _walk(top: bytes, path: str) -> Iterator[Entry]:
    with os.scandir(os.path.join(top, raw(path)) if path else top) as found:
        children = sorted(found, key=lambda child: child.name)
    for child in children:
        name = text(child.name)
        below = f"{path}/{name}" if path else name
        if name.startswith(OURS):
            continue
        if child.is_dir(follow_symlinks=False):
            yield from _walk(top, below)
        else:
            yield _entry(top, below, child.stat(follow_symlinks=False))


def _entry(top: bytes, path: str, status: os.stat_result) -> Entry:
    if stat.S_ISLNK(status.st_mode):
        link = text(os.readlink(os.path.join(top, raw(path))))
        refuse_leaving(path, link)
        return _link_entry(path, link, status)
    if not stat.S_ISREG(status.st_mode):
        raise Problem("kind", path, "it is neither a file, nor a folder, nor a link")
    return _file_entry(path, status)


def _file_entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, "file", status.st_size, "", status.st_mtime_ns, bool(status.st_mode & 0o100))


def _link_entry(path: str, link: str, status: os.stat_result) -> Entry:
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


def _there(root: str, path: str) -> Entry | None:
    try:
        status = os.lstat(place(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        return _link_entry(path, text(os.readlink(place(root, path))), status)
    if stat.S_ISREG(status.st_mode):
        return _file_entry(path, status)
    return Entry(path, "folder", -1, "", 0, False)


def _parts(folder: bytes) -> list[tuple[bytes, int]]:
    try:
        with os.scandir(folder) as found:
            return [(child.name, child.stat(follow_symlinks=False).st_size)
                    for child in found if child.name.startswith(raw(PART))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folder_of(root: str, folder: str) -> bytes:
    """Where the parts of a folder's files lie; those of a root that is a file lie beside it."""
    if folder:
        return place(root, folder)
    top = raw(root)
    return top if os.path.isdir(top) else os.path.dirname(os.path.abspath(top))


# --- sending ---

class Sender:
    """Gives files to a receiver at the other end of a wire."""

    def __init__(self, wire: Wire, root: str, heed: Callable[[Message], None] | None = None,
                 moved: Callable[[Entry, int], None] | None = None) -> None:
        """`heed` gets what the receiver says meanwhile, `moved` the entry and the bytes that have just gone."""
        self._wire = wire
        self._root = root
        self._heed = heed or _ignore
        self._moved = moved or _ignore
        self.sent_bytes = 0

    def send(self, entry: Entry, ask: bool = False) -> None:
        """Raises Problem "changed" when the file is not what the entry says, and tells the receiver."""
        self._heed_pending()
        if entry.kind == "link":
            self._wire.say({"link": entry._asdict()})
            return
        with open(place(self._root, entry.path), "rb") as file:
            self._still(file, entry)
            ask = ask or entry.size >= ASK_FROM
            self._wire.say({"file": entry._asdict(), "ask": ask})
            offset, digest = self._agreed_prefix(file, entry) if ask else (0, hashlib.md5())
            self._wire.say({"from": offset})
            for block in _blocks(file, entry.size - offset):
                digest.update(block)
                self._wire.give(block)
                self.sent_bytes += len(block)
                self._moved(entry, len(block))
                self._heed_pending()
            self._still(file, entry)
        if digest.hexdigest() != entry.md5:
            raise Problem("changed", entry.path, f"its content is not what was planned: MD5 {entry.md5} then, "
                          f"{digest.hexdigest()} now")
        self._wire.say({"sent": entry.md5})

    def copy(self, entry: Entry, origin: str) -> None:
        """Let the receiver copy a file of its own machine."""
        self._wire.say({"copy": entry._asdict(), "of": origin})
        self._heed_pending()

    def flush(self) -> None:
        """Wait until everything sent is complete on the other side."""
        self._wire.say({"flush": True})
        self._until("flushed")

    def end(self) -> None:
        self._wire.say({"end": True})
        self._wire.flush()

    def _agreed_prefix(self, file: BinaryIO, entry: Entry) -> tuple[int, Any]:
        part = self._until("part")
        if part["part"] <= entry.size:
            digest = _md5(file, part["part"])
            if digest.hexdigest() == part["md5"]:
                self._moved(entry, part["part"])
                return part["part"], digest
        file.seek(0)
        return 0, hashlib.md5()

    def _still(self, file: BinaryIO, entry: Entry) -> None:
        """A file that has grown may go: its first bytes must have the planned MD5 in the end."""
        status = os.fstat(file.fileno())
        same_size = status.st_size == entry.size
        if status.st_size < entry.size or (same_size and status.st_mtime_ns != entry.mtime_ns):
            raise Problem("changed", entry.path, f"it changed since the plan was made ({entry.size} bytes then, "
                          f"{status.st_size} now)")

    def _until(self, word: str) -> Message:
        self._wire.flush()
        while True:
            message = self._wire.hear()
            if word in message:
                return message
            self._heed(message)

    def _heed_pending(self) -> None:
        for message in self._wire.heard_already():
            self._heed(message)


# --- receiving ---

class _Written(NamedTuple):
    entry: Entry
    part: bytes
    file: BinaryIO | None  # open, so that it can be flushed; a link has none


class Receiver:
    """Puts files under their final names: part, MD5 while writing, fsync, rename, fsync of the folder."""

    def __init__(self, wire: Wire, root: str, digests: Digests, done: Callable[[Entry], None],
                 moved: Callable[[Entry, int], None] | None = None) -> None:
        self._wire = wire
        self._root = root
        self._digests = digests
        self._done = done
        self._moved = moved or _ignore
        self.taken_bytes = 0
        self._written: list[_Written] = []
        self._written_bytes = 0
        self._folders: dict[str, set[bytes]] = {}  # folder -> parts that were there before
        self._made: set[bytes] = set()
        umask = os.umask(0)
        os.umask(umask)
        self._mode = 0o666 & ~umask

    def run(self) -> None:
        """Until the sender says end. What is complete when the link is cut is still put in its place."""
        try:
            while True:
                message = self._wire.hear()
                if "file" in message:
                    self._file(Entry(**message["file"]), message["ask"])
                elif "link" in message:
                    self._link(Entry(**message["link"]))
                elif "copy" in message:
                    self._copy(Entry(**message["copy"]), message["of"])
                elif "flush" in message:
                    self._commit()
                    self._wire.say({"flushed": True})
                    self._wire.flush()
                elif "end" in message:
                    return
        finally:
            self._commit()
            self._digests.save()

    def _file(self, entry: Entry, ask: bool) -> None:
        part = self._part(entry)
        file = self._open(part, entry)
        try:
            digest = self._content(file, entry, ask)
            found = digest.hexdigest()
            if found != entry.md5:
                raise Problem("digest", entry.path, f"its MD5 is {found} after the transfer, and should be {entry.md5}")
        except Problem as problem:
            file.close()
            if problem.kind in ("digest", "changed"):  # else it is a beginning to go on from
                os.unlink(part)
            raise
        except BaseException:
            file.close()
            raise
        self._complete(entry, part, file)

    def _content(self, file: BinaryIO, entry: Entry, ask: bool) -> Any:
        digest = hashlib.md5()
        if ask:
            size = os.fstat(file.fileno()).st_size
            digest = _md5(file, size)
            self._wire.say({"part": size, "md5": digest.hexdigest()})
            self._wire.flush()
        offset = self._wire.hear()["from"]
        if offset == 0:
            digest = hashlib.md5()
        file.seek(offset)
        file.truncate()
        self._moved(entry, offset)
        while True:
            message = self._wire.hear()
            if "sent" in message:
                return digest
            for piece in self._wire.pieces(message["bytes"]):
                digest.update(piece)
                _write(file, piece)
                self.taken_bytes += len(piece)
                self._moved(entry, len(piece))

    def _link(self, entry: Entry) -> None:
        refuse_leaving(entry.path, entry.link)
        part = self._part(entry)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        os.symlink(raw(entry.link), part)
        self._written.append(_Written(entry, part, None))

    def _copy(self, entry: Entry, origin: str) -> None:
        part = self._part(entry)
        file = self._open(part, entry)
        if _copied(origin, file) == entry.md5:
            self._complete(entry, part, file)
        else:
            file.close()
            os.unlink(part)
            self._wire.say({"refused": entry.path})

    def _part(self, entry: Entry) -> bytes:
        folder = self._folder(entry.path)
        name = part_name(entry.path or self._root, entry.size, entry.md5)
        part = os.path.join(folder, raw(name))
        for old in [o for o in self._folders[text(folder)] if o.startswith(raw(name[:-12])) and o != raw(name)]:
            self._folders[text(folder)].discard(old)  # an earlier version of this file was begun and never ended
            os.unlink(os.path.join(folder, old))
        return part

    def _folder(self, path: str) -> bytes:
        """The folder of a file, made where it lacks. Raises Problem when it lies outside of the root."""
        target = os.path.abspath(place(self._root, path))
        folder = os.path.dirname(target)
        if text(folder) not in self._folders:
            self._make(folder, path)
            top = os.path.realpath(raw(self._root) if path else folder)
            if os.path.realpath(folder) != top and not os.path.realpath(folder).startswith(top.rstrip(b"/") + b"/"):
                raise Problem("link", path, f"{text(folder)} is or goes through a link that leads out of {self._root}")
            self._folders[text(folder)] = {name for name, _ in _parts(folder)}
        return folder

    def _make(self, folder: bytes, path: str) -> None:
        missing = []
        while not os.path.isdir(folder):
            if os.path.lexists(folder):
                raise Problem("kind", path, f"{text(folder)} is a file there, not a folder")
            missing.append(folder)
            folder = os.path.dirname(folder)
        for new in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another transfer made it just now
                os.mkdir(new)
            self._made.add(os.path.dirname(new))

    def _open(self, part: bytes, entry: Entry) -> BinaryIO:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if not _flocked(descriptor):
            os.close(descriptor)
            raise Problem("locked", entry.path, "another transfer is writing this file")
        return os.fdopen(descriptor, "r+b", buffering=0)

    def _complete(self, entry: Entry, part: bytes, file: BinaryIO) -> None:
        os.fchmod(file.fileno(), self._mode | (self._mode >> 2 & 0o111 if entry.executable else 0))
        os.utime(file.fileno(), ns=(entry.mtime_ns, entry.mtime_ns))
        self._written.append(_Written(entry, part, file))
        self._written_bytes += entry.size
        if len(self._written) >= BATCH_FILES or self._written_bytes >= BATCH_BYTES:
            self._commit()

    def _commit(self) -> None:
        written, self._written, self._written_bytes = self._written, [], 0
        _sync([w.file for w in written if w.file])
        for item in written:
            target = place(self._root, item.entry.path)
            try:
                os.replace(item.part, target)
            except IsADirectoryError:
                raise Problem("kind", item.entry.path, "it is a folder there, and a file here") from None
            if item.file:
                self._digests.learn(target, os.fstat(item.file.fileno()), item.entry.md5)
                item.file.close()
        for folder in self._made | {os.path.dirname(item.part) for item in written}:
            flush_folder(folder)
        self._made = set()
        for item in written:
            self._done(item.entry)


def _copied(origin: str, file: BinaryIO) -> str:
    """Copy, and say the MD5 of what was copied; "" when the origin is not there any more."""
    digest = hashlib.md5()
    file.truncate()
    try:
        with open(raw(origin), "rb") as source:
            for block in _blocks(source, os.fstat(source.fileno()).st_size):
                digest.update(block)
                _write(file, block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _sync(files: Sequence[BinaryIO]) -> None:
    """fsync all: side by side, so that the file system can put them into one journal commit."""
    if len(files) < 4:
        for file in files:
            os.fsync(file.fileno())
        return
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda file: os.fsync(file.fileno()), files))


def flush_folder(folder: bytes) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no fsync of a folder
            raise
    finally:
        os.close(descriptor)


def commit(folder: str, final: str, files: Sequence[Message], digests: Digests) -> None:
    """Rename a complete folder to its final name. Raises Problem when a file is missing or not what `files` says."""
    for row in files:
        path = place(folder, row["path"])
        if not os.path.isfile(path) or os.stat(path).st_size != row["size_bytes"]:
            raise Problem("incomplete", row["path"], f"it is missing in {folder}, or has another size")
        if digests.of(path, row["size_bytes"]) != row["md5"]:
            raise Problem("digest", row["path"], f"its MD5 in {folder} is not {row['md5']}")
    if os.path.lexists(raw(final)):
        raise Problem("exists", final, "it is there already")
    os.makedirs(os.path.dirname(os.path.abspath(raw(final))), exist_ok=True)
    os.rename(raw(folder), raw(final))
    flush_folder(os.path.dirname(os.path.abspath(raw(final))))
    for row in files:  # the cache goes by path, and that has changed
        path = place(final, row["path"])
        digests.learn(path, os.stat(path), row["md5"])
    digests.save()


def refuse_full(root: str, need_bytes: int, need_files: int) -> None:
    free_bytes, free_files = space(root)
    if need_bytes > free_bytes:
        raise Problem("full", root, "there is not enough space", missing_bytes=need_bytes - free_bytes,
                      free_bytes=free_bytes)
    if 0 <= free_files < need_files:
        raise Problem("full", root, f"{need_files} files are to be made and {free_files} inodes are free",
                      missing_bytes=0, free_bytes=free_bytes)


class Lock:
    """One transfer per target: flock on a file beside it. Its mtime says when the holder last heard its other side."""

    def __init__(self, root: str) -> None:
        top = os.path.realpath(raw(root))
        folder, name = os.path.split(top)
        if os.path.isdir(top) and not os.access(folder, os.W_OK):
            folder = top  # somebody's home below a folder that belongs to root
        self._root = root
        self._path = os.path.join(folder, raw(LOCK) + hashlib.md5(name).hexdigest()[:12].encode())
        self._descriptor = -1

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + IDLE_S + 2 * BEAT_S
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        while not self._taken():
            if self._holder_lives() or time.monotonic() > deadline:
                raise Problem("locked", self._root, f"another transfer to it is under way (process {self._holder()})")
            time.sleep(0.2)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, b"%d\n" % os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        os.unlink(self._path)  # while it is held: whoever opened it meanwhile sees that it is no longer the one
        os.close(self._descriptor)

    def touch(self) -> None:
        os.utime(self._descriptor)

    def _taken(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(FileNotFoundError):  # the holder removed it just now
            if _flocked(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                self._descriptor = descriptor
                return True
        os.close(descriptor)
        return False

    def _holder_lives(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return time.time() - os.stat(self._path).st_mtime < 2 * BEAT_S + 1
        return False

    def _holder(self) -> str:
        with contextlib.suppress(OSError), open(self._path, encoding="ascii") as file:
            return file.read().strip()
        return "unknown"


def _flocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise  # those three: Lustre and NFS without locks, where two transfers cannot exclude each other
    return True


# --- the wire ---

class Wire:
    """JSON lines and raw bytes over any pair of pipes."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[Any], Any],
                 readable: Callable[[], bool] | None = None) -> None:
        """`read` gives what is there, at least one byte, or b"" at the end; `write` takes all it is given."""
        self._read = read
        self._write = write
        self._readable = readable or (lambda: False)
        self._in = memoryview(b"")
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._lock = threading.Lock()
        self._reading_since_s = self._writing_since_s = 0.0  # 0: it is not

    def say(self, message: Message) -> None:
        with self._lock:
            self._put(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def give(self, block: bytes) -> None:
        with self._lock:
            self._put(b'{"bytes":%d}\n' % len(block))
            self._put(block)

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def beat(self) -> None:
        """Say that we are alive, unless a write is under way: then the other side sees that anyway."""
        if self._lock.acquire(blocking=False):
            try:
                self._put(b'{"alive":true}\n')
                self._flush()
            finally:
                self._lock.release()

    def hear(self) -> Message:
        """The next message that is not a beat. Raises Problem for an error, EOFError at the end."""
        while True:
            message = self._message()
            if message is not None:
                return message

    def heard_already(self) -> Iterator[Message]:
        """Messages that are there now, without waiting for more."""
        while self._in or self._readable():
            message = self._message()
            if message is not None:
                yield message

    @property
    def blocked_s(self) -> float:
        """For how long the read or the write that is under way has been waiting for the other side."""
        since_s = [s for s in (self._reading_since_s, self._writing_since_s) if s]
        return time.monotonic() - min(since_s) if since_s else 0.0

    def pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._in:
                self._in = memoryview(self._more())
            piece = self._in[:size]
            self._in = self._in[len(piece):]
            size -= len(piece)
            yield piece

    def _message(self) -> Message | None:
        line = self._line()
        try:
            message: Message = json.loads(line)
        except ValueError:
            raise Problem("noise", "", f"this is no message of ours: {line[:80]!r}") from None
        if "error" in message:
            raise Problem.heard(message)
        return None if "alive" in message else message

    def _line(self) -> bytes:
        start: list[bytes] = []
        while True:
            held = self._in.obj if isinstance(self._in.obj, bytes) else b""
            at = len(held) - len(self._in)
            end = held.find(b"\n", at)
            if end >= 0:
                self._in = self._in[end + 1 - at:]
                return b"".join(start) + held[at:end]
            start.append(held[at:])
            self._in = memoryview(self._more())

    def _more(self) -> bytes:
        self._reading_since_s = time.monotonic()
        try:
            piece = self._read(BLOCK)
        finally:
            self._reading_since_s = 0.0
        if not piece:
            raise EOFError("the other side ended")
        return piece

    def _put(self, piece: bytes) -> None:
        self._out.append(piece)
        self._out_bytes += len(piece)
        if self._out_bytes >= BLOCK >> 2:
            self._flush()

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        try:
            for piece in _joined(out):
                self._writing_since_s = time.monotonic()
                self._write(memoryview(piece))
        finally:
            self._writing_since_s = 0.0


def _joined(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Small pieces together, large ones as they are: a write is dear, and so is a copy."""
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < BLOCK >> 2:
            small.append(piece)
            continue
        if small:
            yield b"".join(small)
        yield piece
        small = []
    if small:
        yield b"".join(small)


class Pulse:
    """Beats so that the other side need not wonder, and calls `gone` when we have waited for it for `idle_s`."""

    def __init__(self, wire: Wire, gone: Callable[[], None], idle_s: float = IDLE_S,
                 touch: Callable[[], None] = lambda: None) -> None:
        self._wire = wire
        self._gone = gone
        self._idle_s = idle_s
        self._touch = touch
        self._stop = threading.Event()

    def __enter__(self) -> Pulse:
        WORK.last_s = time.monotonic()
        for run in (self._beat, self._watch):  # a beat may block, and the watch must not
            threading.Thread(target=run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _beat(self) -> None:
        with contextlib.suppress(Exception):  # the main thread meets the same error and explains it
            while not self._stop.wait(BEAT_S):
                if time.monotonic() - WORK.last_s < STUCK_S:
                    self._wire.beat()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._idle_s / 4)):
            blocked_s = self._wire.blocked_s
            if blocked_s > self._idle_s:
                self._gone()
                return
            if blocked_s < 2 * BEAT_S and not self._stop.is_set():
                self._touch()


class Work:
    """When a block of a file was last read or written."""

    last_s = 0.0


WORK = Work()


# --- small parts ---

def _ignore(*_: object) -> None:
    pass



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


def _stat(path: bytes) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise Problem("missing", text(path), "there is no such file or folder") from None


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        block = file.read(min(size, BLOCK))
        if not block:
            return
        size -= len(block)
        WORK.last_s = time.monotonic()
        yield block


def _md5(file: BinaryIO, size: int) -> Any:
    digest = hashlib.md5()
    for block in _blocks(file, size):
        digest.update(block)
    return digest


def _write(file: BinaryIO, piece: Any) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view):]
    WORK.last_s = time.monotonic()


def problem_of(error: OSError, path: str = "") -> Problem:
    named = error.filename
    where = text(named) if isinstance(named, bytes) else str(named or path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem("full", where, "the disk is full" if error.errno == errno.ENOSPC else "the quota is used up")
    words = {errno.EROFS: "the file system is read-only", errno.EACCES: "permission denied",
             errno.ENOENT: "there is no such file or folder"}
    return Problem("os", where, words.get(error.errno or 0, error.strerror or str(error)))


# --- the far side's requests ---

def _do_scan(request: Message, wire: Wire) -> None:
    digests = _digests(request)
    found = scan(request["root"], request.get("files"))
    for entry in all_digested(request["root"], found, digests) if request["hash"] else found:
        wire.say({"there": entry._asdict()})
    digests.save()
    wire.say({"end": True})


def _do_survey(request: Message, wire: Wire) -> None:
    digests = _digests(request)
    for message in survey(request["root"], request["wanted"], digests, request.get("basis", "")):
        wire.say(message)
    digests.save()
    wire.say({"end": True})


def _do_receive(request: Message, wire: Wire) -> None:
    root = request["root"]
    refuse_full(root, request["need_bytes"], request["need_files"])

    def done(entry: Entry) -> None:
        wire.say({"done": entry.path, "md5": entry.md5})

    with Lock(root) as lock, Pulse(wire, lambda: os._exit(3), touch=lock.touch):
        wire.say({"ready": True})
        wire.flush()
        Receiver(wire, root, _digests(request), done).run()


def _do_send(request: Message, wire: Wire) -> None:
    wire.say({"ready": True})
    wire.flush()
    sender = Sender(wire, request["root"])
    for fields, ask in request["files"]:
        sender.send(Entry(**fields), ask)
    sender.end()


def _do_commit(request: Message, wire: Wire) -> None:
    commit(request["folder"], request["final"], request["files"], _digests(request))
    wire.say({"end": True})


def _do_space(request: Message, wire: Wire) -> None:
    free_bytes, free_files = space(request["root"])
    wire.say({"free_bytes": free_bytes, "free_files": free_files})


def _digests(request: Message) -> Digests:
    return Digests(request.get("cache", ""), request.get("trust", True), request.get("read_only", False))


OPERATIONS: dict[str, Callable[[Message, Wire], None]] = {
    "scan": _do_scan, "survey": _do_survey, "receive": _do_receive, "send": _do_send, "commit": _do_commit,
    "space": _do_space}


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline().decode())
    assert isinstance(sys.stdin.buffer, io.BufferedReader)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    wire = Wire(sys.stdin.buffer.read1, lambda piece: _write(out, piece))
    try:
        _serve(request, wire)
        wire.flush()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the other side is gone; what was begun stays for its next call
    out.close()


def _serve(request: Message, wire: Wire) -> None:
    try:
        if request["do"] == "receive":
            OPERATIONS["receive"](request, wire)  # it beats by itself, together with its lock
        else:
            with Pulse(wire, lambda: None):
                OPERATIONS[request["do"]](request, wire)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Problem as problem:
        wire.say(problem.message())
    except OSError as error:
        wire.say(problem_of(error, request.get("root", "")).message())
    except Exception as error:  # a bug; the other side shows one line of it, not a traceback
        wire.say(Problem("bug", request.get("root", ""), repr(error)).message())


if __name__ == "__main__":
    main()
