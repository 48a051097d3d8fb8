"""Ranges: the queue of ranges of large files that every stream takes from, and how to move one, up or down."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from rdtops.hostlib.fields import LARGEST
from rdtops.porter.entries import Entry, Message, Problem, count, place, text, unasked
from rdtops.porter.parts import RangedPart, gaps, give
from rdtops.porter.range_server import refuse_changed
from rdtops.porter.wire import Wire

SMALLEST_BYTES, LARGEST_BYTES = 1 << 18, 1 << 22
RANGES_PER_FILE = 512
MOST_CRC = (1 << 32) - 1
TRIES = 3  # for a range that arrives altered


class Range(NamedTuple):
    entry: Entry
    part: str  # path of the part where it is written
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


class Ranges:
    """The ranges that wait, that are under way and that have arrived. Shared by all streams of a transfer."""

    def __init__(self) -> None:
        self._waiting: deque[Range] = deque()  # each is cut into pieces when it is taken
        self._arrived: list[Range] = []
        self._missing: Counter[str] = Counter()  # path -> bytes that have not arrived
        self._altered: Counter[Range] = Counter()
        self._change = threading.Condition()
        self.done_with: list[str] = []  # parts that are complete
        self.failure: BaseException | None = None
        self.closed = False
        self.moved_bytes = 0  # over the wire, retries included
        self.arrived_bytes = 0

    def add(self, entry: Entry, part: str, there: Iterable[tuple[int, int]]) -> None:
        """Add the ranges of a file, without those of `there`, which have arrived before."""
        open_spans = gaps(entry.size, there)
        with self._change:
            self._missing[entry.path] = sum(end - start for start, end in open_spans)
            self._waiting.extend(Range(entry, part, start, end) for start, end in open_spans)
            self._change.notify_all()

    def take(self) -> Range | None:
        with self._change:
            if not self._waiting or self.failure:
                return None
            whole = self._waiting.popleft()
            size = min(max(whole.entry.size // RANGES_PER_FILE >> 18 << 18, SMALLEST_BYTES), LARGEST_BYTES)
            if whole.size > size:
                self._waiting.appendleft(whole._replace(start=whole.start + size))
            return whole._replace(end=min(whole.start + size, whole.end))

    def give_back(self, ranges: Iterable[Range]) -> None:
        """Return unfinished ranges to the queue, for other streams."""
        with self._change:
            self._waiting.extendleft(ranges)
            self._change.notify_all()

    def arrive(self, range_: Range) -> None:
        with self._change:
            self._arrived.append(range_)
            self.arrived_bytes += range_.size
            self._change.notify_all()

    def altered(self, range_: Range) -> None:
        """Queue a range again whose CRC differs on the other side. Raise Problem after TRIES times."""
        self._altered[range_] += 1
        if self._altered[range_] == TRIES:
            raise Problem("digest", range_.entry.path, f"the {range_.size} bytes at {range_.start} arrived altered "
                          f"{TRIES} times")
        self.give_back([range_])

    def news(self) -> list[Range]:
        """Return the ranges that have arrived since the last call."""
        with self._change:
            arrived, self._arrived = self._arrived, []
            for range_ in arrived:
                self._missing[range_.entry.path] -= range_.size
        return arrived

    def complete(self, path: str) -> bool:
        return self._missing[path] == 0

    @property
    def waiting_bytes(self) -> int:
        with self._change:
            return sum(r.size for r in self._waiting)

    @property
    def open_bytes(self) -> int:
        """The bytes of begun files that have not arrived."""
        return self._missing.total()

    def be_done_with(self, part: str) -> None:
        with self._change:
            self.done_with.append(part)
            self._change.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._change:
            self.failure = self.failure or error
            self._change.notify_all()

    def close(self) -> None:
        with self._change:
            self.closed = True
            self._change.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until something changes, at most `seconds`."""
        with self._change:
            if not self._arrived and not self.closed and not self.failure:
                self._change.wait(seconds)


class RangeTransfer(Protocol):
    """How one stream moves a range."""

    def order(self, wire: Wire, range_: Range) -> None: ...

    def handle(self, wire: Wire, message: Message, range_: Range) -> bool:
        """Handle the answer to the oldest order. Return whether the range arrived unaltered."""

    def done_with(self, part: str) -> None: ...

    def close(self) -> None: ...


class RangeUpload:
    """Sends ranges of files below a folder of this machine."""

    def __init__(self, root: str, moved: Ranges) -> None:
        self._root = root
        self._ranges = moved
        self._files: dict[str, int] = {}
        self._crcs: deque[int] = deque()

    def order(self, wire: Wire, range_: Range) -> None:
        if range_.part not in self._files:
            self._files[range_.part] = os.open(place(self._root, range_.entry.path), os.O_RDONLY | os.O_CLOEXEC)
        file = self._files[range_.part]
        refuse_changed(file, range_.entry)
        wire.say({"put": range_.part, "at": range_.start, "size": range_.size})
        self._crcs.append(give(wire, file, range_.start, range_.size))
        refuse_changed(file, range_.entry)
        self._ranges.moved_bytes += range_.size

    def handle(self, wire: Wire, message: Message, range_: Range) -> bool:  # noqa: ARG002  # as RangeDownload's
        refuse_other_range(message, "put", range_)
        return count(message, "crc", MOST_CRC, -1) == self._crcs.popleft()

    def done_with(self, part: str) -> None:
        if part in self._files:
            os.close(self._files.pop(part))

    def close(self) -> None:
        for part in list(self._files):
            self.done_with(part)


class RangeDownload:
    """Fetches ranges of files below a folder of the host, into parts of this machine."""

    def __init__(self, root: str, moved: Ranges, parts: Mapping[str, RangedPart]) -> None:
        self._root = root
        self._ranges = moved
        self._parts = parts

    def order(self, wire: Wire, range_: Range) -> None:
        path = text(place(self._root, range_.entry.path))
        wire.say({"get": path, "entry": range_.entry._asdict(), "at": range_.start, "size": range_.size})

    def handle(self, wire: Wire, message: Message, range_: Range) -> bool:
        refuse_other_range(message, "get", range_)
        crc = self._parts[range_.part].take(wire, range_.start, range_.size)
        self._ranges.moved_bytes += range_.size
        answer = wire.hear()
        refuse_other_range(answer, "got", range_)
        return count(answer, "crc", MOST_CRC, -1) == crc

    def done_with(self, part: str) -> None:
        pass

    def close(self) -> None:
        pass


def refuse_other_range(message: Message, name: str, range_: Range) -> None:
    if count(message, name, LARGEST) != range_.start:
        raise Problem("unasked", range_.entry.path, f"the host answers for the range at {message[name]}, but the next "
                      f"one is at {range_.start}")


class RangeStream:
    """Moves ranges over one wire: only as many at a time as keep the line busy, so that a stream that dies or is slow
    delays little."""

    LEAST_BYTES, FIRST_BYTES, MOST_BYTES = 1 << 19, 1 << 22, 1 << 23

    def __init__(self, wire: Wire, ranges: Ranges, mover: RangeTransfer, rtt_s: float) -> None:
        self.wire = wire
        self._ranges = ranges
        self._mover = mover
        self._rtt_s = rtt_s
        self._under_way: deque[Range] = deque()
        self._under_way_bytes = 0
        self._done_with = 0
        self._rate = 0.0  # bytes a second
        self._since_s, self._since_bytes = time.monotonic(), 0

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    def start_one(self) -> bool:
        """Start the next range, if there is one and the line has room for it. Return whether it did."""
        if self._under_way_bytes >= self._window_bytes() or not (range_ := self._ranges.take()):
            return False
        self._under_way.append(range_)
        self._under_way_bytes += range_.size
        self._mover.order(self.wire, range_)
        self.wire.flush()
        return True

    def handle(self, message: Message) -> None:
        if not self._under_way:
            raise unasked(message)
        range_ = self._under_way[0]
        good = self._mover.handle(self.wire, message, range_)
        self._under_way.popleft()
        self._under_way_bytes -= range_.size
        self._measure(range_.size)
        if good:
            self._ranges.arrive(range_)
        else:
            self._ranges.altered(range_)

    def tell_closed(self) -> None:
        """Tell the other side to close complete parts."""
        while self._done_with < len(self._ranges.done_with):
            part = self._ranges.done_with[self._done_with]
            self._done_with += 1
            self._mover.done_with(part)
            self.wire.say({"close": part})
            self.wire.flush()

    def run(self) -> None:
        """Run until the transfer is over."""
        while not self._ranges.closed:
            for message in self.wire.heard_already():
                self.handle(message)
            self.tell_closed()
            if self.start_one():
                continue
            if self._under_way:
                self.handle(self.wire.hear())
            else:
                self._ranges.wait(0.05)

    def end(self) -> None:
        """Return its unfinished ranges to the queue."""
        self._mover.close()
        self._ranges.give_back(self._under_way)
        self._under_way.clear()

    def _window_bytes(self) -> float:
        if not self._rate:  # not measured yet: a small share, in case this stream is slow
            return min(max(self._ranges.open_bytes / 32, self.LEAST_BYTES), self.FIRST_BYTES)
        return min(max(self._rate * (0.2 + 2.5 * self._rtt_s), self.LEAST_BYTES), self.MOST_BYTES)

    def _measure(self, count: int) -> None:
        self._since_bytes += count
        passed_s = time.monotonic() - self._since_s
        if passed_s >= 0.25:
            now = self._since_bytes / passed_s
            self._rate = 0.5 * (self._rate + now) if self._rate else now
            self._since_s, self._since_bytes = time.monotonic(), 0
