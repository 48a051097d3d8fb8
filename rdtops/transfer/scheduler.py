"""Scheduler: begin large files that go in ranges, follow what has arrived, and complete them. An upload tells the
host's receiver over its own wire, which may be a stream itself; a download writes the target itself."""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Protocol

from rdtops.porter.entries import Entry, Message, Problem, md5_in, nonsense, place, text, unasked, word
from rdtops.porter.file_digests import CACHE, Digests, SourceDigest
from rdtops.porter.parts import RangedPart, part_of, spans_in
from rdtops.porter.target import TransferTarget
from rdtops.porter.wire import Wire
from rdtops.transfer.ranges import Range, RangeDownload, RangeStream, RangeTransfer, RangeUpload
from rdtops.transfer.streams import StreamPool

AHEAD_FILES, AHEAD_BYTES = 8, 1 << 26  # begun ahead of time, so that the streams never wait

Moved = Callable[[Entry, int], None]


class UploadReport(Protocol):
    """The record of an upload that is under way."""

    def moved(self, entry: Entry, count: int) -> None: ...
    def sent(self, path: str, md5: str) -> None: ...
    def handle(self, message: Message) -> None: ...


class _Scheduler:
    """The loop of both directions: handle messages of the other side, and carry ranges over its own wire."""

    def __init__(self, wire: Wire, streams: StreamPool, mover: Callable[[], RangeTransfer], moved: Moved, *,
                 carries: bool) -> None:
        self._wire = wire
        self._streams = streams
        self._ranges = streams.ranges
        self._mover = mover
        self._moved = moved
        self._carries = carries
        self._stream = RangeStream(wire, streams.ranges, mover(), streams.rtt_s)
        self._open: dict[str, Entry] = {}

    def _hear(self, message: Message) -> None:
        raise NotImplementedError

    def _turn(self) -> None:
        """Do one step. Raise the error that ended a stream."""
        if self._ranges.failure:
            raise self._ranges.failure
        for message in self._wire.heard_already():
            self._hear(message)
        if (self._carries or not self._streams.hopeful) and self._stream.start_one():
            return
        if self._stream.busy:
            self._hear(self._wire.hear())
        else:
            with self._wire.polled(self._streams.advanced_s):
                self._ranges.wait(0.01)


class Upload(_Scheduler):
    """Sends files to a receiver at the other end of `wire`."""

    def __init__(self, wire: Wire, roots: tuple[str, str], entries: Iterable[Entry], digests: Digests,
                 streams: StreamPool, tally: UploadReport, *, carries: bool) -> None:
        """`roots`: the folder on this machine, and the one on the host. `digests` learns the MD5 of what is sent.
        `carries`: the wire carries ranges too, and not only while there is no stream."""
        self._root, self._target = roots
        super().__init__(wire, streams, functools.partial(RangeUpload, self._root, streams.ranges), tally.moved,
                         carries=carries)
        self._waiting = deque(entries)
        self._digests = digests
        self._tally = tally
        self._parts: dict[str, str] = {}  # of the files that the receiver has begun
        self._anew: set[str] = set()  # begun again: their earlier part was of another version
        self._content: dict[str, SourceDigest] = {}  # of the files that were planned without their MD5
        self._finishing: set[str] = set()

    def begin(self) -> None:
        """Announce the first files."""
        while self._waiting and len(self._open) < AHEAD_FILES and self._ranges.waiting_bytes < AHEAD_BYTES:
            entry = self._waiting.popleft()
            self._open[entry.path] = entry
            self._wire.say({"begin": entry._asdict()})
        self._wire.flush()

    def run(self) -> None:
        """Run until the receiver has confirmed every file."""
        try:
            self._run()
        finally:
            self._stream.end()
            for content in self._content.values():
                content.close()

    def _run(self) -> None:
        self._streams.carry(self._mover)
        while self._waiting or self._open:
            self.begin()
            self._report(self._ranges.news())
            self._turn()

    def _report(self, arrived: list[Range]) -> None:
        spans = defaultdict(list)
        for range_ in arrived:
            spans[range_.entry.path].append((range_.start, range_.end))
            self._read(range_.entry.path, range_.start, range_.end)
            self._moved(range_.entry, range_.size)
        for path, kept in spans.items():
            self._wire.say({"kept": path, "spans": kept})
        for path in self._parts.keys() - self._finishing:
            if self._ranges.complete(path):
                self._finishing.add(path)
                self._ranges.be_done_with(self._parts[path])
                md5 = self._md5(path)
                self._tally.sent(path, md5)
                self._wire.say({"finish": path, "md5": md5})
        if spans or self._finishing:
            self._wire.flush()

    def _hear(self, message: Message) -> None:
        if "put" in message:
            self._stream.handle(message)
        elif "begun" in message:
            self._go(message)
        else:
            self._tally.handle(message)
            if message.get("done") in self._finishing:
                self._finishing.remove(message["done"])
                del self._open[message["done"]], self._parts[message["done"]]
                self._drop_content(message["done"])

    def _go(self, message: Message) -> None:
        """Handle that the receiver has begun a file: send only the ranges that it lacks."""
        entry = self._open.get(word(message, "begun"))
        if entry is None or not self._may_begin(entry.path):
            raise unasked(message)
        part, there = text(part_of(self._target, entry)), spans_in(message, "there", entry.size)
        if message.get("part") != part:
            raise nonsense(message, "part")
        if entry.path in self._finishing:  # its earlier part was of another version
            self._finishing.remove(entry.path)
            self._anew.add(entry.path)
            self._moved(entry, -entry.size)
        self._parts[entry.path] = part
        self._follow(entry)
        for start, end in there:
            self._read(entry.path, start, end)
            self._moved(entry, end - start)
        self._ranges.add(entry, part, there)

    def _may_begin(self, path: str) -> bool:
        """Return whether a file may begin: once, and once more when its earlier part was of another version."""
        return path not in self._parts or (path in self._finishing and path not in self._anew)

    def _follow(self, entry: Entry) -> None:
        """Start to digest a file that was planned without its MD5."""
        self._drop_content(entry.path)
        if not entry.md5:
            self._content[entry.path] = SourceDigest(place(self._root, entry.path), entry.size, self._digests)

    def _read(self, path: str, start: int, end: int) -> None:
        if path in self._content:
            self._content[path].add(start, end)

    def _md5(self, path: str) -> str:
        return self._open[path].md5 or self._content[path].result()

    def _drop_content(self, path: str) -> None:
        if path in self._content:
            self._content.pop(path).close()


class Download(_Scheduler):
    """Fetches files below a folder of the host. `wire` leads to an idle porter."""

    def __init__(self, wire: Wire, target: TransferTarget, root: str, streams: StreamPool, moved: Moved, *,
                 carries: bool) -> None:
        """`carries`: as for Upload."""
        self._parts: dict[str, RangedPart] = {}
        super().__init__(wire, streams, functools.partial(RangeDownload, root, streams.ranges, self._parts), moved,
                         carries=carries)
        self._target = target
        self._root = root
        self._asked: dict[str, Entry] = {}  # complete; the host is asked for their MD5

    def run(self, entries: Iterable[Entry]) -> None:
        """Run until every file is complete."""
        try:
            self._run(entries)
        except Problem as problem:
            self._streams.close()  # first, because a stream may be writing the part
            if problem.kind in ("digest", "changed"):
                self._target.drop(problem.path)
            raise
        finally:
            self._streams.close()
            self._target.close()

    def _run(self, entries: Iterable[Entry]) -> None:
        self._streams.carry(self._mover)
        self._wire.say({"do": "stream", "cache": CACHE})
        self._wire.hear()  # it is ready
        waiting = deque(entries)
        while waiting or self._open or self._asked:
            while waiting and len(self._open) < AHEAD_FILES and self._ranges.waiting_bytes < AHEAD_BYTES:
                self._begin(waiting.popleft())
            self._report(self._ranges.news())
            self._stream.tell_closed()
            self._turn()
        self._wire.say({"end": True})
        self._wire.flush()

    def _hear(self, message: Message) -> None:
        if "digest_of" in message:
            entry = self._asked.pop(word(message, "digest_of"), None)
            if entry is None:
                raise unasked(message)
            self._finish(entry, md5_in(message, "md5"))
        else:
            self._stream.handle(message)

    def _report(self, arrived: list[Range]) -> None:
        for range_ in arrived:
            self._target.kept(range_.entry.path, [(range_.start, range_.end)])
            self._moved(range_.entry, range_.size)
        for entry in [e for e in self._open.values() if self._ranges.complete(e.path)]:
            del self._open[entry.path]
            if entry.md5:
                self._finish(entry, entry.md5)
            else:
                self._ask_digest(entry)

    def _ask_digest(self, entry: Entry) -> None:
        source = self._source(entry)
        self._asked[source] = entry
        self._wire.say({"digest": source})
        self._wire.flush()

    def _source(self, entry: Entry) -> str:
        return text(place(self._root, entry.path))

    def _begin(self, entry: Entry) -> None:
        ranged = self._target.begin(entry)
        part = text(ranged.part.path)
        self._parts[part] = ranged.part
        self._open[entry.path] = entry
        self._moved(entry, sum(end - start for start, end in ranged.there))
        if not entry.md5:
            self._wire.say({"read": self._source(entry), "size": entry.size})
            self._wire.flush()
        self._ranges.add(entry, part, ranged.there)

    def _finish(self, entry: Entry, md5: str) -> None:
        if self._target.finish(entry.path, md5):
            self._ranges.be_done_with(self._source(entry))
        else:
            self._moved(entry, -entry.size)
            self._begin(entry)
