"""Streams: the connections that carry the ranges of large files, as many as raise the total rate.

One connection is limited by the window of its SSH channel and, where packets get lost, by TCP's congestion control. So
on a line with delay several start at once, and more follow while the sum of their rates grows. A login that a hop
refuses is no error, it only means fewer streams; the unfinished ranges of a stream go to the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from rdtops.errors import RdtopsError
from rdtops.porter.entries import Problem, problem_of
from rdtops.porter.wire import Heartbeat, Stalled, Wire
from rdtops.transfer.ranges import Ranges, RangeStream, RangeTransfer

NEAR_S, FAR_S = 0.005, 0.06  # round trip times
MOST = 12
GROWTH = 1.1  # the gain by which more streams are followed by others
FULL_RATE = 8e6  # bytes a second; a stream of that rate is not limited by loss
SILENCE_S = 30.0
MEASURE_S = 1.0
SPEEDING_UP_S = 0.5  # of TCP's slow start, before its rate is measured
ACCIDENTS = 4  # lost streams that are opened again


def first_streams(rtt_s: float) -> int:
    """Return how many streams to begin with: the window of a channel through a jump, 2 MiB, limits one with a long
    round trip."""
    return 1 if rtt_s < NEAR_S else 4 if rtt_s < FAR_S else 8


class OpenStream(Protocol):
    """A function that opens a stream: returns its wire and a function that closes it."""

    def __call__(self) -> tuple[Wire, Callable[[], None]]: ...


class StreamPool:
    """Streams: opens some, measures their total rate, and opens more while that grows."""

    def __init__(self, way: OpenStream, *, rtt_s: Callable[[], float | None], first: Callable[[float], int],
                 most: int = MOST) -> None:
        """`first` returns how many to begin with at a round trip time."""
        self.ranges = Ranges()
        self.error: Exception | None = None  # of the last stream that ended
        self._way = way
        self._rtt_s = rtt_s
        self._first = first
        self._most = most
        self._wanted: int | None = None
        self._opening = 0
        self._live = 0
        self._mover: Callable[[], RangeTransfer] | None = None
        self._cuts: set[Callable[[], None]] = set()
        self._wires: set[Wire] = set()  # of those that live
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._started = False
        self._over = threading.Event()
        self._lost = 0
        self._login_s = 0.0
        self._best_rate = 0.0
        self._window = (0.0, 0)  # when a measurement began, and what had arrived then

    def start(self, pays: Callable[[float], bool] = lambda _: True) -> None:
        """Log in, if it pays at the measured round trip time; `carry` may follow later."""
        self._started, self._pays = True, pays
        self._begin(threading.Thread(target=self._manage, daemon=True))

    def carry(self, mover: Callable[[], RangeTransfer]) -> None:
        """Let the streams move what is in `ranges`, from now on."""
        self._mover = mover

    def correct(self, answered_s: float) -> None:
        """Correct the round trip time by one to the host: the login may have shown a shorter one."""
        if self._started and not self._wanted and answered_s >= 4 * NEAR_S and self._pays(answered_s):
            self._rtt_s = lambda: answered_s
            self._wanted = self._first(answered_s)

    @property
    def rtt_s(self) -> float:
        return self._rtt_s() or 0.0

    @property
    def advanced_s(self) -> float:
        """The time of the host's last progress over one of them."""
        with self._lock:
            return max((wire.advanced_s for wire in self._wires), default=0.0)

    @property
    def hopeful(self) -> bool:
        """Whether some streams are open, or may still open."""
        return bool(self._live or self._opening or self._wanted or (self._started and self._wanted is None))

    def close(self) -> None:
        """End every stream: when this returns, nothing is written any more."""
        self._over.set()
        self.ranges.close()
        self._cut()
        for thread in self._threads:
            thread.join(10)
        self._cut()  # those that were just being opened

    def _cut(self) -> None:
        with self._lock:
            cuts, self._cuts = self._cuts, set()
        for cut in cuts:
            cut()

    def _begin(self, thread: threading.Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def _manage(self) -> None:
        while not self.ranges.closed:
            if self._wanted is None and (rtt_s := self._rtt_s()) is not None:
                self._wanted = self._first(rtt_s) if self._pays(rtt_s) else 0
            while self._wanted and self._live + self._opening < self._wanted:
                with self._lock:
                    self._opening += 1
                self._begin(threading.Thread(target=self._stream, daemon=True))
            self._grow()
            self._over.wait(0.01 if self._wanted is None else 0.05)

    def _stream(self) -> None:
        """Run one stream, from its login to its end."""
        opened_s, live = time.monotonic(), False
        try:
            wire, cut = self._way()
            with self._lock:
                self._cuts.add(cut)
            if self.ranges.closed:
                self._cut()
            with Heartbeat(wire, cut, SILENCE_S):
                wire.hear()  # it is ready
                with self._lock:
                    self._opening, self._live, live = self._opening - 1, self._live + 1, True
                    self._wires.add(wire)
                self._login_s = time.monotonic() - opened_s
                try:
                    self._move(wire)
                finally:
                    with self._lock:
                        self._wires.discard(wire)
        except Stalled as error:
            cut()
            self._lose(error, live)
        except (Problem, OSError) as error:  # of a file, on either side: another stream would fail too
            self.ranges.fail(error if isinstance(error, Problem) else problem_of(error))
        except (RdtopsError, EOFError) as error:
            self._lose(error, live)
        except Exception as error:  # a bug must not make the transfer wait for ever
            self.ranges.fail(error)
        finally:
            with self._lock:
                self._live -= live
                self._opening -= not live

    def _move(self, wire: Wire) -> None:
        while self._mover is None:
            if self.ranges.closed:
                return
            self.ranges.wait(0.02)
        stream = RangeStream(wire, self.ranges, self._mover(), self.rtt_s)
        try:
            stream.run()
        finally:
            stream.end()

    def _lose(self, error: Exception, was_live: bool) -> None:
        """Count a lost stream; one that was open may be opened again."""
        if self.ranges.closed:
            return
        self.error = error
        self._lost += 1
        if was_live and self._lost <= ACCIDENTS:
            return
        with self._lock:
            self._wanted = max(0, min(self._wanted or 0, self._live + self._opening - 1 - was_live))
            self._most = self._wanted

    def _grow(self) -> None:
        """Open more streams while the total rate grows."""
        if not self._live or self._opening or self._mover is None or self.rtt_s < NEAR_S:
            self._window = (0.0, 0)
            return
        since_s, before = self._window
        now_s, arrived = time.monotonic(), self.ranges.arrived_bytes
        if not since_s:
            self._window = (now_s + (SPEEDING_UP_S if not self._best_rate else 0.0), arrived)
            return
        if now_s < since_s:
            self._window = (since_s, arrived)
        if now_s - since_s < MEASURE_S:
            return
        rate = (arrived - before) / (now_s - since_s)
        self._window = (now_s, arrived)
        worth_it = self.ranges.open_bytes > 2 * self._login_s * rate
        if rate > GROWTH * self._best_rate and rate / self._live < FULL_RATE and worth_it:
            self._best_rate = rate
            self._wanted = min(self._most, (self._wanted or 0) + 4)
