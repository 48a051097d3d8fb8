"""Target: write the files of a transfer: part, digest while writing, fsync, rename, fsync of the folder. Both
directions use it: the host's receiver for an upload, the control side for a download."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

from rdtops.hostlib.files import flush
from rdtops.hostlib.locks import flocked
from rdtops.porter.entries import BLOCK, Entry, Problem, count, md5_in, place, raw, refuse_leaving, text
from rdtops.porter.file_digests import Digests, InOrder, blocks, md5_of, write_all
from rdtops.porter.parts import RECORD, RangedPart, begun, part_of, remove
from rdtops.porter.sender import ignore
from rdtops.porter.wire import WORK, Wire

BATCH_FILES, BATCH_BYTES = 128, 1 << 25  # small files are synced together: one fsync after the other is slow


class _Written(NamedTuple):
    entry: Entry
    part: bytes
    file: BinaryIO | None  # open, for fsync; a link has none


class _Ranged(NamedTuple):
    """A file that arrives in ranges."""

    entry: Entry
    part: RangedPart
    there: list[tuple[int, int]]  # from an earlier call
    whole: InOrder

    def close(self) -> None:
        self.whole.stop()
        self.part.close()


class TransferTarget:
    """Puts files under their final names below a root, and never follows a link out of it."""

    def __init__(self, root: str, digests: Digests, done: Callable[[Entry], None],
                 moved: Callable[[Entry, int], None] | None = None) -> None:
        """`done` gets an entry when its file is complete and on the disk, `moved` an entry and the bytes received."""
        self._root = root
        self._digests = digests
        self._done = done
        self._moved = moved or ignore
        self.taken_bytes = 0
        self._written: list[_Written] = []
        self._written_bytes = 0
        self._folders: dict[str, set[bytes]] = {}  # folder -> its parts from earlier calls
        self._made: set[bytes] = set()
        self._ranged: dict[str, _Ranged] = {}
        umask = os.umask(0)
        os.umask(umask)
        self._mode = 0o666 & ~umask

    def close(self) -> None:
        """Rename complete files to their names; leave parts for the next call."""
        for path in list(self._ranged):
            self._ranged.pop(path).close()
        self.commit()
        self._digests.save()

    def stream(self, wire: Wire, entry: Entry, ask: bool) -> None:
        """Receive a file from its beginning, or with `ask` from where its part ends."""
        part = self._part(entry)
        file = self._open(part, entry)
        try:
            found, sent = self._content(wire, file, entry, ask)
            refuse_other(entry.path, found, entry.md5 or sent)
        except Problem as problem:
            file.close()
            problem.path = problem.path or entry.path
            if problem.kind in ("digest", "changed"):  # else the part can be resumed
                os.unlink(part)
            raise
        except BaseException:
            file.close()
            raise
        self._complete(entry._replace(md5=found), part, file)

    def _content(self, wire: Wire, file: BinaryIO, entry: Entry, ask: bool) -> tuple[str, str]:
        """Write the content. Return its MD5 as written, and as the sender states it."""
        digest, begun_bytes = hashlib.md5(), 0
        if ask:
            begun_bytes = os.fstat(file.fileno()).st_size
            digest = md5_of(file, begun_bytes)
            wire.say({"part": begun_bytes, "md5": digest.hexdigest()})
        offset = count(wire.hear(), "from", min(begun_bytes, entry.size))
        if offset not in (0, begun_bytes):
            raise Problem("protocol", entry.path, f"it resumes at byte {offset}, but the part has {begun_bytes} bytes")
        if not offset:
            digest = hashlib.md5()
        file.seek(offset)
        file.truncate()
        self._moved(entry, offset)
        missing = entry.size - offset
        while missing:
            size = count(wire.hear(), "bytes", min(missing, BLOCK), 1)
            for piece in wire.pieces(size):
                digest.update(piece)
                write_all(file, piece)
                self.taken_bytes += len(piece)
                self._moved(entry, len(piece))
            missing -= size
        return digest.hexdigest(), md5_in(wire.hear(), "sent")

    def begin(self, entry: Entry) -> _Ranged:
        """Open the part of a file that comes in ranges."""
        part = RangedPart(self._part(entry))
        if not flocked(part.file):
            part.close()
            raise Problem("locked", entry.path, "another transfer is writing this file")
        part.be_alone()  # a stream of a killed transfer may still be writing
        ranged = self._ranged[entry.path] = _Ranged(entry, part, part.there(entry.size), InOrder(part.file, entry.size))
        part.share()
        for start, end in ranged.there:
            ranged.whole.add(start, end)
        return ranged

    def kept(self, path: str, spans: Sequence[tuple[int, int]]) -> None:
        """Record ranges that are written to the part."""
        for start, end in spans:
            self._ranged[path].whole.add(start, end)

    def finish(self, path: str, md5: str) -> bool:
        """Complete a file whose ranges are all written. Return False when its earlier part was of another version: then
        it begins again."""
        ranged = self._ranged[path]
        ranged.part.be_alone()
        found = ranged.whole.result()
        if found == md5:
            del self._ranged[path]  # its thread has ended
            self._complete(ranged.entry._replace(md5=md5), ranged.part.path, ranged.part.detached())
            self.commit()
            return True
        if not ranged.there:
            self.drop(path)
            refuse_other(path, found, md5)
        ranged.part.clear()
        self._ranged.pop(path).close()
        return False

    def drop(self, path: str) -> None:
        """Discard the part of a file."""
        if path in self._ranged:
            ranged = self._ranged.pop(path)
            ranged.close()
            remove(ranged.part.path)

    def link(self, entry: Entry) -> None:
        refuse_leaving(entry.path, entry.link)
        part = self._part(entry)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        os.symlink(raw(entry.link), part)
        self._written.append(_Written(entry, part, None))

    def copy(self, entry: Entry, origin: str) -> bool:
        """Copy a file of this machine. Return whether `origin` has the expected content."""
        part = self._part(entry)
        file = self._open(part, entry)
        if _copied(origin, file) == entry.md5:
            self._complete(entry, part, file)
            return True
        file.close()
        os.unlink(part)
        return False

    def commit(self) -> None:
        """Sync the complete files and rename them to their names."""
        written, self._written, self._written_bytes = self._written, [], 0
        with WORK.flushing(sum(w.entry.size for w in written)):
            _sync([w.file for w in written if w.file])
        for item in written:
            target = place(self._root, item.entry.path)
            try:
                os.replace(item.part, target)
            except IsADirectoryError:
                raise Problem("kind", item.entry.path, "it is a file at the source, a folder at the target") from None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(item.part + RECORD)
            if item.file:
                self._digests.learn(target, os.fstat(item.file.fileno()), item.entry.md5)
                item.file.close()
        for folder in self._made | {os.path.dirname(item.part) for item in written}:
            flush(folder)
        self._made = set()
        for item in written:
            self._done(item.entry)

    def _part(self, entry: Entry) -> bytes:
        part = part_of(self._root, entry)
        folder, name = os.path.split(part)
        self._prepare(folder, entry.path)
        for old in [o for o in self._folders[text(folder)] if o.startswith(name[:-12]) and o != name]:
            self._folders[text(folder)].discard(old)  # the part of an earlier version of this file
            remove(os.path.join(folder, old))
        return part

    def _prepare(self, folder: bytes, path: str) -> None:
        """Make the folder of a file where it is missing. Raise Problem when it is outside of the root."""
        if text(folder) not in self._folders:
            refuse_outside(self._root, path, folder)
            self._make(folder, path)
            self._folders[text(folder)] = {name for name, _ in begun(folder)}

    def _make(self, folder: bytes, path: str) -> None:
        missing = []
        while not os.path.isdir(folder):
            if os.path.lexists(folder):
                raise Problem("kind", path, f"{text(folder)} in the target is a file, not a folder")
            missing.append(folder)
            folder = os.path.dirname(folder)
        for new in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another transfer made it just now
                os.mkdir(new)
            self._made.add(os.path.dirname(new))

    def _open(self, part: bytes, entry: Entry) -> BinaryIO:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if not flocked(descriptor):
            os.close(descriptor)
            raise Problem("locked", entry.path, "another transfer is writing this file")
        return os.fdopen(descriptor, "r+b", buffering=0)

    def _complete(self, entry: Entry, part: bytes, file: BinaryIO) -> None:
        os.fchmod(file.fileno(), self._mode | (self._mode >> 2 & 0o111 if entry.executable else 0))
        os.utime(file.fileno(), ns=(entry.mtime_ns, entry.mtime_ns))
        self._written.append(_Written(entry, part, file))
        self._written_bytes += entry.size
        if len(self._written) >= BATCH_FILES or self._written_bytes >= BATCH_BYTES:
            self.commit()


def refuse_outside(root: str, path: str, folder: bytes) -> None:
    """Raise Problem when the folder of a file is, or would be, outside of the root because of a link."""
    top, real = os.path.realpath(raw(root) if path else folder), os.path.realpath(folder)
    if real != top and not real.startswith(top.rstrip(b"/") + b"/"):
        raise Problem("link", path, f"{text(folder)} is or goes through a link that leads out of {root}")


def refuse_other(path: str, found: str, sent: str) -> None:
    if found != sent:
        raise Problem("digest", path, f"its MD5 is {found} after the transfer, expected {sent}")


def _copied(origin: str, file: BinaryIO) -> str:
    """Copy, and return the MD5 of what was copied; "" when the origin no longer exists."""
    digest = hashlib.md5()
    file.truncate()
    try:
        with open(raw(origin), "rb") as source:
            for block in blocks(source, os.fstat(source.fileno()).st_size):
                digest.update(block)
                write_all(file, block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _sync(files: Sequence[BinaryIO]) -> None:
    """Call fsync for all files in parallel, so that the file system can put them into one journal commit."""
    if len(files) < 4:
        for file in files:
            os.fsync(file.fileno())
        return
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda file: os.fsync(file.fileno()), files))
