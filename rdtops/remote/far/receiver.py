"""The side that gets the files: part, digest while writing, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Callable, NamedTuple, Sequence

from rdtops.remote.far.digests import Digests, InOrder, blocks, md5_of, write_all
from rdtops.remote.far.entries import Entry, Message, Problem, place, raw, refuse_leaving, text
from rdtops.remote.far.gate import flocked
from rdtops.remote.far.laner import Laner
from rdtops.remote.far.parts import RECORD, RangedPart, begun, part_name, remove
from rdtops.remote.far.sender import ignore
from rdtops.remote.far.wire import WORK, Wire

BATCH_FILES, BATCH_BYTES = 128, 1 << 25  # small files go to the disk together: one fsync after the other is slow


class _Written(NamedTuple):
    entry: Entry
    part: bytes
    file: BinaryIO | None  # open, so that it can be flushed; a link has none


class _Ranged(NamedTuple):
    """A file that is coming in ranges."""

    entry: Entry
    part: RangedPart
    there: list[tuple[int, int]]  # from an earlier call
    whole: InOrder

    def close(self) -> None:
        self.whole.stop()
        self.part.close()


class Receiver:
    """Puts files under their final names: part, MD5 while writing, fsync, rename, fsync of the folder."""

    def __init__(self, wire: Wire, root: str, digests: Digests, done: Callable[[Entry], None],
                 moved: Callable[[Entry, int], None] | None = None) -> None:
        self._wire = wire
        self._root = root
        self._digests = digests
        self._done = done
        self._moved = moved or ignore
        self.taken_bytes = 0
        self._written: list[_Written] = []
        self._written_bytes = 0
        self._folders: dict[str, set[bytes]] = {}  # folder -> parts that were there before
        self._made: set[bytes] = set()
        self._ranged: dict[str, _Ranged] = {}
        self._laner = Laner(wire, digests)
        self._deeds: dict[str, Callable[[Message], None]] = {
            "file": lambda m: self._file(Entry(**m["file"]), m["ask"]),
            "link": lambda m: self._link(Entry(**m["link"])),
            "copy": lambda m: self._copy(Entry(**m["copy"]), m["of"]),
            "begin": lambda m: self._say_begun(Entry(**m["begin"])),
            "put": self._laner.heed,
            "close": self._laner.heed,
            "kept": lambda m: self.kept(m["kept"], m["spans"]),
            "finish": lambda m: self._finish(m["finish"], m["md5"]),
            "flush": self._flush}
        umask = os.umask(0)
        os.umask(umask)
        self._mode = 0o666 & ~umask

    def run(self) -> None:
        """Until the sender says end. What is complete when the link is cut is still put in its place."""
        try:
            while "end" not in (message := self._wire.hear()):
                [heed] = [self._deeds[word] for word in message if word in self._deeds]
                heed(message)
        except Problem as problem:
            if problem.kind in ("digest", "changed"):
                self.drop(problem.path)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """What is complete gets its name; what was begun stays for the next call."""
        self._laner.close_all()
        for path in list(self._ranged):
            self._ranged.pop(path).close()
        self._commit()
        self._digests.save()

    def _file(self, entry: Entry, ask: bool) -> None:
        part = self._part(entry)
        file = self._open(part, entry)
        try:
            found, sent = self._content(file, entry, ask)
            refuse_other(entry.path, found, sent)
        except Problem as problem:
            file.close()
            if problem.kind in ("digest", "changed"):  # else it is a beginning to go on from
                os.unlink(part)
            raise
        except BaseException:
            file.close()
            raise
        self._complete(entry._replace(md5=found), part, file)

    def _content(self, file: BinaryIO, entry: Entry, ask: bool) -> tuple[str, str]:
        """Its MD5 here, and what the sender says it is."""
        digest = hashlib.md5()
        if ask:
            size = os.fstat(file.fileno()).st_size
            digest = md5_of(file, size)
            self._wire.say({"part": size, "md5": digest.hexdigest()})
        offset = self._wire.hear()["from"]
        if offset == 0:
            digest = hashlib.md5()
        file.seek(offset)
        file.truncate()
        self._moved(entry, offset)
        while True:
            message = self._wire.hear()
            if "sent" in message:
                return digest.hexdigest(), message["sent"]
            for piece in self._wire.pieces(message["bytes"]):
                digest.update(piece)
                write_all(file, piece)
                self.taken_bytes += len(piece)
                self._moved(entry, len(piece))

    def begin(self, entry: Entry) -> _Ranged:
        """Open the part of a file that comes in ranges."""
        part = RangedPart(self._part(entry))
        if not flocked(part.file):
            part.close()
            raise Problem("locked", entry.path, "another transfer is writing this file")
        part.be_alone()  # a lane of a transfer that was killed may still be writing what it has
        ranged = self._ranged[entry.path] = _Ranged(entry, part, part.there(entry.size), InOrder(part.file, entry.size))
        part.share()
        for start, end in ranged.there:
            ranged.whole.add(start, end)
        return ranged

    def kept(self, path: str, spans: Sequence[tuple[int, int]]) -> None:
        """Ranges that are in the part now."""
        for start, end in spans:
            self._ranged[path].whole.add(start, end)

    def finish(self, path: str, md5: str) -> bool:
        """Every range is there. False: what was there before was not of this file, so it begins anew."""
        ranged = self._ranged[path]
        self._laner.close(text(ranged.part.path))
        ranged.part.be_alone()
        found = ranged.whole.result()
        if found == md5:
            del self._ranged[path]  # its thread has ended
            self._complete(ranged.entry._replace(md5=md5), ranged.part.path, ranged.part.detached())
            self._commit()
            return True
        if not ranged.there:
            self.drop(path)
            refuse_other(path, found, md5)
        ranged.part.clear()
        self._ranged.pop(path).close()
        return False

    def _say_begun(self, entry: Entry) -> None:
        ranged = self.begin(entry)
        self._wire.say({"begun": entry.path, "part": text(ranged.part.path), "there": ranged.there})

    def _finish(self, path: str, md5: str) -> None:
        entry = self._ranged[path].entry
        if not self.finish(path, md5):
            self._say_begun(entry)

    def drop(self, path: str) -> None:
        """What has come of a file is of no use."""
        if path in self._ranged:
            ranged = self._ranged.pop(path)
            ranged.close()
            remove(ranged.part.path)

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
        name = part_name(entry.path or self._root, entry.size, entry.mtime_ns)
        part = os.path.join(folder, raw(name))
        for old in [o for o in self._folders[text(folder)] if o.startswith(raw(name[:-12])) and o != raw(name)]:
            self._folders[text(folder)].discard(old)  # an earlier version of this file was begun and never ended
            remove(os.path.join(folder, old))
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
            self._folders[text(folder)] = {name for name, _ in begun(folder)}
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
            self._commit()

    def _flush(self, _: Message) -> None:
        self._commit()
        self._wire.say({"flushed": True})

    def _commit(self) -> None:
        written, self._written, self._written_bytes = self._written, [], 0
        with WORK.flushing(sum(w.entry.size for w in written)):
            _sync([w.file for w in written if w.file])
        for item in written:
            target = place(self._root, item.entry.path)
            try:
                os.replace(item.part, target)
            except IsADirectoryError:
                raise Problem("kind", item.entry.path, "it is a folder there, and a file here") from None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(item.part + RECORD)
            if item.file:
                self._digests.learn(target, os.fstat(item.file.fileno()), item.entry.md5)
                item.file.close()
        for folder in self._made | {os.path.dirname(item.part) for item in written}:
            flush_folder(folder)
        self._made = set()
        for item in written:
            self._done(item.entry)


def refuse_other(path: str, found: str, sent: str) -> None:
    if found != sent:
        raise Problem("digest", path, f"its MD5 is {found} after the transfer, and should be {sent}")


def _copied(origin: str, file: BinaryIO) -> str:
    """Copy, and say the MD5 of what was copied; "" when the origin is not there any more."""
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
