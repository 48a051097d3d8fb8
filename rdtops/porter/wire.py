"""The wire: JSON lines and raw bytes over any pair of pipes, and a heartbeat that tells a slow side from a dead one."""

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
IDLE_S = 30.0  # the other side beats; when it has been silent for so long it is gone, and its lock with it
PROGRESS_S = 300.0  # a host that is alive and does not go on for so long is given up
STUCK_S = 360.0  # no block read and no beat after that: a dead file system must not look alive
LINE_BYTES = 1 << 25  # of a message of the host: the paths of half a million files
PIECE_BYTES = 1 << 23  # raw, in one
SLOWEST_LINE_BYTES_PER_S = 1e4  # which a long message has the time for
SLOWEST_BYTES_PER_S = 1e7  # of a disk that is told to keep what was written


class Stalled(Problem):
    """The other side is alive and does not go on."""


class Wire:
    """JSON lines and raw bytes over any pair of pipes."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[Any], Any],
                 readable: Callable[[], bool] | None = None, trusting: bool = False) -> None:
        """`read` gives what is there, at least one byte, or b"" at the end; `write` takes all it is given. `trusting`:
        the other side may say lines of any length, and let us wait for any time while it lives: a laptop may."""
        self._read = read
        self._write = write
        self._readable = readable or (lambda: False)
        self._trusting = trusting
        self._in = memoryview(b"")
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._lock = threading.Lock()
        self._reading_since_s = self._writing_since_s = 0.0  # 0: it is not
        self._polled, self._heard_s = False, time.monotonic()
        self._waited_s = 0.0  # in all, since the other side last went on
        self._work_shown = -1  # by its beats
        self._begun_bytes = 0  # of the line that has not ended
        self.heard_bytes = 0
        self.advanced_s = time.monotonic()  # when the other side last went on

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
                self._put(b'{"alive":%d}\n' % (1000 * WORK.shown_s))
                self._flush()
            finally:
                self._lock.release()

    def hear(self) -> Message:
        """The next message that is not a beat. Raises Problem for an error, Stalled, and EOFError at the end."""
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

    @contextlib.contextmanager
    def polled(self, elsewhere_s: float = 0.0) -> Iterator[None]:
        """While we wait for something else and look now and then: then silence counts as well. `elsewhere_s`: when the
        other side last went on over another wire."""
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
        """Whether it is the other side's turn."""
        return bool(self._reading_since_s or self._polled)

    @property
    def blocked_s(self) -> float:
        """For how long the read or the write that is under way has been waiting for the other side."""
        since_s = [s for s in (self._reading_since_s, self._writing_since_s, self._polled and self._heard_s) if s]
        return time.monotonic() - min(since_s) if since_s else 0.0

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The raw bytes that a message has announced."""
        if not 0 < (whole(size) or 0) <= PIECE_BYTES:
            raise Problem("protocol", "", f"a piece is announced with a size that is not from 1 to {PIECE_BYTES} bytes")
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
            raise Problem("noise", "", f"this is no message of ours: {line[:80]!r}")
        if "error" in message:
            raise Problem.heard(message)
        if "alive" not in message:
            self._advance(time.monotonic())
            return _Message(message)
        work = whole(message["alive"])  # true: it lives, and says no more
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
        """The other side goes on, and has time again."""
        self.advanced_s, self._waited_s = when_s, 0.0

    def _wait_on(self, waited_s: float) -> None:
        """Raises Stalled when that is too much. Only waiting counts: we may have had something else to do."""
        self._waited_s += waited_s
        allowed_s = PROGRESS_S + self._begun_bytes / SLOWEST_LINE_BYTES_PER_S
        if self._waited_s > allowed_s and not self._trusting:
            raise Stalled("stalled", "", f"our program there is alive, and has not gone on for {PROGRESS_S:g} s")

    def _more(self) -> bytes:
        if self._out:  # before we wait, all that we have to say; together, because a second small packet would wait
            self.flush()  # until the first is acknowledged
        self._reading_since_s = since_s = time.monotonic()
        try:
            piece = self._read(BLOCK)
        finally:
            self._reading_since_s = 0.0
            self._heard_s = time.monotonic()
        if not piece:
            raise EOFError("the other side ended")
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
    """A message whose missing words are the host's fault."""

    def __missing__(self, word: str) -> Any:
        raise nonsense(self, word)


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


class Heartbeat:
    """Beats so that the other side need not wonder, and calls `gone` when we have waited for it for `idle_s`."""

    def __init__(self, wire: Wire, gone: Callable[[], None], idle_s: float = IDLE_S,
                 touch: Callable[[], None] = lambda: None) -> None:
        self._wire = wire
        self._gone = gone
        self._idle_s = idle_s
        self._touch = touch
        self._stop = threading.Event()

    def __enter__(self) -> Heartbeat:
        WORK.last_s = time.monotonic()
        for run in (self._beat, self._watch):  # a beat may block, and the watch must not
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
    """What shows that this side goes on: when a block of a file was last read or written."""

    def __init__(self) -> None:
        self.last_s = time.monotonic()
        self._until_s = 0.0

    @contextlib.contextmanager
    def flushing(self, size: int) -> Iterator[None]:
        """While the kernel writes so many bytes, of which we see nothing."""
        self._until_s = time.monotonic() + size / SLOWEST_BYTES_PER_S
        try:
            yield
        finally:
            self.last_s, self._until_s = time.monotonic(), 0.0

    @property
    def shown_s(self) -> float:
        return max(self.last_s, min(time.monotonic(), self._until_s))


WORK = Work()
