"""Wire: JSON lines and raw bytes over any pair of pipes, and a heartbeat that tells a slow side from a dead one."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rdtops.hostlib.fields import loads, whole
from rdtops.porter.entries import BLOCK, Message, Problem, nonsense

BEAT_S = 5.0
IDLE_S = 30.0  # without a heartbeat of the other side: then it is gone, and its lock with it
PROGRESS_S = 300.0  # without progress of a host that is alive: then it has stalled
STUCK_S = 360.0  # no block read and no heartbeat after that: a dead file system must not look alive
LINE_BYTES = 1 << 25  # of a message of the host: the paths of half a million files
PIECE_BYTES = 1 << 23  # of one piece of raw bytes
SLOWEST_LINE_BYTES_PER_S = 1e4  # the time limit of a long message
SLOWEST_BYTES_PER_S = 1e7  # of a disk during fsync


class Stalled(Problem):
    """The other side is alive and makes no progress."""


class Wire:
    """JSON lines and raw bytes over any pair of pipes."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[Any], Any],
                 readable: Callable[[], bool] | None = None, trusting: bool = False) -> None:
        """`read` returns what has arrived, at least one byte, or b"" at the end; `write` writes all. `trusting`: accept
        lines of any length, and wait without limit while the other side lives, as a host does for a laptop."""
        self._read = read
        self._write = write
        self._readable = readable or (lambda: False)
        self._trusting = trusting
        self._in = memoryview(b"")
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._lock = threading.Lock()
        self._reading_since_s = self._writing_since_s = 0.0  # 0: no read or write is under way
        self._polled, self._heard_s = False, time.monotonic()
        self._waited_s = 0.0  # in all, since the other side's last progress
        self._work_shown = -1  # the progress in its heartbeats
        self._begun_bytes = 0  # of the line that has not ended
        self.heard_bytes = 0
        self.advanced_s = time.monotonic()  # of the other side's last progress

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
        """Send a heartbeat, unless a write is under way: that shows the same."""
        if self._lock.acquire(blocking=False):
            try:
                self._put(b'{"alive":%d}\n' % (1000 * WORK.shown_s))
                self._flush()
            finally:
                self._lock.release()

    def hear(self) -> Message:
        """Return the next message that is not a heartbeat. Raise Problem for an error, Stalled, and EOFError at the
        end."""
        while True:
            message = self._message()
            if message is not None:
                return message

    def heard_already(self) -> Iterator[Message]:
        """Yield the messages that have arrived, without waiting for more."""
        while self._in or self._readable():
            message = self._message()
            if message is not None:
                yield message

    @contextlib.contextmanager
    def polled(self, elsewhere_s: float = 0.0) -> Iterator[None]:
        """Count the silence of the other side while the body waits for something else. `elsewhere_s`: the time of the
        other side's last progress over another wire."""
        self._polled, since_s = True, time.monotonic()
        try:
            yield
        finally:
            self._polled = False
        if elsewhere_s > self.advanced_s:
            self._advance(elsewhere_s)
        self._wait_on(time.monotonic() - since_s)

    @property
    def waits(self) -> bool:
        """Whether we wait for the other side."""
        return bool(self._reading_since_s or self._polled)

    @property
    def blocked_s(self) -> float:
        """The seconds that the current read or write has been waiting for the other side."""
        since_s = [s for s in (self._reading_since_s, self._writing_since_s, self._polled and self._heard_s) if s]
        return time.monotonic() - min(since_s) if since_s else 0.0

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the raw bytes that a message has announced."""
        if not 0 < (whole(size) or 0) <= PIECE_BYTES:
            raise Problem("protocol", "", f"the size of a piece must be from 1 to {PIECE_BYTES} bytes")
        while size:
            if not self._in:
                self._in = memoryview(self._more())
                self._advance(time.monotonic())
            piece = self._in[:size]
            self._in = self._in[len(piece):]
            size -= len(piece)
            yield piece

    def _message(self) -> Message | None:
        line = self._line()
        try:
            message = loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise Problem("noise", "", f"unexpected output, not a message of rdtops: {line[:80]!r}")
        if "error" in message:
            raise Problem.heard(message)
        if "alive" not in message:
            self._advance(time.monotonic())
            return _Message(message)
        work = whole(message["alive"])  # `true`: alive, without a time of progress
        if work is not None and work > self._work_shown:
            self._work_shown = work
            self._advance(time.monotonic())
        return None

    def _line(self) -> bytes:
        start: list[bytes] = []
        size = 0
        while True:
            held = self._in.obj if isinstance(self._in.obj, bytes) else b""
            at = len(held) - len(self._in)
            end = held.find(b"\n", at)
            size += len(held) - at if end < 0 else end - at
            if size > LINE_BYTES and not self._trusting:
                raise Problem("long", "", f"a line of more than {LINE_BYTES} bytes: {(*start, held[at:])[0][:80]!r}")
            if end >= 0:
                self._begun_bytes = 0
                self._in = self._in[end + 1 - at:]
                return b"".join(start) + held[at:end]
            start.append(held[at:])
            self._begun_bytes = size
            self._in = memoryview(self._more())

    def _advance(self, when_s: float) -> None:
        """Record progress of the other side, which restarts its time limit."""
        self.advanced_s, self._waited_s = when_s, 0.0

    def _wait_on(self, waited_s: float) -> None:
        """Add a time of waiting; raise Stalled when the sum is too long. Only waiting counts, not our own work."""
        self._waited_s += waited_s
        allowed_s = PROGRESS_S + self._begun_bytes / SLOWEST_LINE_BYTES_PER_S
        if self._waited_s > allowed_s and not self._trusting:
            raise Stalled("stalled", "", f"the program on the host is alive but made no progress for {PROGRESS_S:g} s")

    def _more(self) -> bytes:
        if self._out:  # send all before we wait; together, because a second small packet would wait until the first
            self.flush()  # is acknowledged
        self._reading_since_s = since_s = time.monotonic()
        try:
            piece = self._read(BLOCK)
        finally:
            self._reading_since_s = 0.0
            self._heard_s = time.monotonic()
        if not piece:
            raise EOFError("the other side closed the wire")
        self.heard_bytes += len(piece)
        self._wait_on(self._heard_s - since_s)
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


class _Message(Message):
    """A message whose missing keys raise Problem."""

    def __missing__(self, word: str) -> Any:
        raise nonsense(self, word)


def _joined(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Join small pieces, and keep large ones as they are: writes and copies are both slow."""
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


class Heartbeat:
    """Sends heartbeats to the other side, and calls `gone` when we have waited for it for `idle_s`."""

    def __init__(self, wire: Wire, gone: Callable[[], None], idle_s: float = IDLE_S,
                 touch: Callable[[], None] = lambda: None) -> None:
        self._wire = wire
        self._gone = gone
        self._idle_s = idle_s
        self._touch = touch
        self._stop = threading.Event()

    def __enter__(self) -> Heartbeat:
        WORK.last_s = time.monotonic()
        for run in (self._beat, self._watch):  # a heartbeat may block, and the watch must not
            threading.Thread(target=run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _beat(self) -> None:
        with contextlib.suppress(Exception):  # the main thread meets the same error and explains it
            while not self._stop.wait(BEAT_S):
                if self._wire.waits or time.monotonic() - WORK.shown_s < STUCK_S:
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
    """The progress of this side: when a block of a file was last read or written."""

    def __init__(self) -> None:
        self.last_s = time.monotonic()
        self._until_s = 0.0

    @contextlib.contextmanager
    def flushing(self, size: int) -> Iterator[None]:
        """Count as progress the time in which the kernel writes so many bytes, which we cannot see."""
        self._until_s = time.monotonic() + size / SLOWEST_BYTES_PER_S
        try:
            yield
        finally:
            self.last_s, self._until_s = time.monotonic(), 0.0

    @property
    def shown_s(self) -> float:
        return max(self.last_s, min(time.monotonic(), self._until_s))


WORK = Work()
