"""Stall detection: distinguish a stuck training from a working one by the growth of its Journal and log."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import LINE_BYTES, Event, parse
from rdtops.contract.recovery import Recovery
from rdtops.hostlib import files

# not written by the trainer
OURS = ("launched", "attempt", "attempt_ended", "silent", "heard", "stuck", "stop_requested")
REMEMBERED = 50  # step events whose mean distance is the usual one
PIECE_BYTES = 4 * LINE_BYTES  # of the Journal, read at once
LAST_WORDS = ("failed", "finished", "stopped")  # no sign of life: the processes are to leave
FAILED_S = 7.0  # to leave, after an error: the trainer's own limits are shorter
LEFT_S = 60.0  # to leave, after the end: torch takes the process group down, other machines are waited for
SILENCE_S = 120.0  # before the first step, after which it is told
PAUSE_FLOOR = 4  # silence may last so many floors where the state is saved or the EMA evaluated


class StallDetector:
    """A stall detector, updated by `look`; times are seconds of the monotonic clock."""

    def __init__(self, journal: Path, log: Path, config: TrainConfig, recovery: Recovery,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self.recovery = config, recovery
        self._journal, self._log, self._clock = journal, log, clock
        self._offset = 0
        self._intervals: deque[float] = deque(maxlen=REMEMBERED)
        self._pauses: deque[float] = deque(maxlen=REMEMBERED)
        self.events: list[Event] = []  # of this attempt, without its steps
        self.last_step = self.saved_step = 0
        self.attempts = 0  # since the launch
        self.is_open = False  # the last attempt has no end in the Journal
        self.last_word: Event | None = None  # the first of LAST_WORDS in this attempt
        self.in_a_row = 0  # attempts without a new checkpoint, including the one that wrote the last
        self._read()
        self.begin()

    def begin(self) -> None:
        """Begin a new attempt: silence counts from now."""
        self.events = []
        self._log_size = _size(self._log)
        self._step_s: float | None = None  # time of the last step event, by the trainer's clock
        self._heard_s = self._clock()
        self.is_told = False  # this silence, by the supervisor
        self.last_word, self._last_word_s = None, 0.0

    def look(self) -> None:
        """Read what is new."""
        grown = _size(self._log)
        is_fresh = self._read()
        if is_fresh or (not self.is_training and grown != self._log_size):
            self._heard_s = self._clock()
        self._log_size = grown

    @property
    def is_training(self) -> bool:
        return self._step_s is not None

    @property
    def silent_s(self) -> float:
        return self._clock() - self._heard_s

    @property
    def limit_s(self) -> float:
        """Return how long the silence may be now."""
        recovery = self.recovery
        if not self.is_training:
            return recovery.setup_limit_s
        usual_s = statistics.median(self._intervals) if self._intervals else 0.0
        limit_s = max(recovery.stuck_floor_s, recovery.stuck_times * usual_s)
        if self._pauses_after(self.last_step):
            limit_s = max(limit_s, PAUSE_FLOOR * recovery.stuck_floor_s, PAUSE_FLOOR * max(self._pauses, default=0.0))
        return limit_s

    @property
    def is_silent(self) -> bool:
        """Whether nothing has been written for long before the first step. A large encoder or dataset may be read."""
        return not self.is_training and self.silent_s > SILENCE_S

    def pass_over_log(self) -> None:
        """Do not take what the log has gained since the last look for a sign of life: we asked for it."""
        self._log_size = _size(self._log)

    @property
    def is_stuck(self) -> bool:
        return not self.last_word and self.silent_s > self.limit_s

    @property
    def is_overdue(self) -> bool:
        """Whether the training has said its last word, and has not left in the time for that."""
        return self.last_word is not None and self.leaving_s > self.leaving_limit_s

    @property
    def leaving_s(self) -> float:
        """Return the seconds since the last word."""
        return self._clock() - self._last_word_s

    @property
    def leaving_limit_s(self) -> float:
        return FAILED_S if self.last_word and self.last_word.kind == "failed" else LEFT_S

    def _pauses_after(self, step: int) -> bool:
        """Tell whether the EMA is evaluated or the state saved, in silence, after this step."""
        config = self.config
        every = (config.checkpoint_every_steps, config.heldout_every_steps, config.sample_every_steps)
        return step >= config.max_steps or any(n and step % n == 0 for n in every)

    def _read(self) -> bool:
        """Read piece by piece. Return whether the trainer has written anything new."""
        if _size(self._journal) < self._offset:
            self._offset = 0  # the file was replaced by a shorter one
        is_fresh = False
        try:
            with open(files.opened(self._journal), "rb") as file:  # noqa: PTH123  # a descriptor
                file.seek(self._offset)
                while content := file.read(PIECE_BYTES):
                    events, read = parse(content)
                    if not read and len(content) < PIECE_BYTES:
                        break  # an incomplete line
                    self._offset += read or len(content)  # no event is so long
                    file.seek(self._offset)
                    for event in events:
                        is_fresh = self._take(event) or is_fresh
        except OSError:
            return is_fresh
        return is_fresh

    def _take(self, event: Event) -> bool:
        """Take an event. Return whether it shows that the trainer works."""
        if event.kind.startswith(("eval_", "trial")):  # of evaluations of the run
            return False
        step = event.data.get("step") or 0
        if event.kind == "launched":
            self.attempts, self.in_a_row, self.is_open = 0, 0, False
        elif event.kind == "attempt":
            self.attempts, self._step_s, self.is_open = event.data.get("attempt") or self.attempts + 1, None, True
            self.in_a_row += 1
        elif event.kind == "attempt_ended":
            self.is_open = False
        elif event.kind == "checkpoint" and step > self.saved_step:
            self.saved_step, self.in_a_row = step, 1
        elif event.kind == "step":
            self._take_step(step, event.time_s)
        if event.kind != "step":
            self.events.append(event)
        if event.kind in LAST_WORDS and not self.last_word:
            self.last_word, self._last_word_s = event, self._clock()
        return event.kind not in (*OURS, *LAST_WORDS)

    def _take_step(self, step: int, time_s: float) -> None:
        if self._step_s is not None:
            kept = self._pauses if self._pauses_after(self.last_step) else self._intervals
            kept.append(time_s - self._step_s)
        self.last_step, self._step_s = step, time_s


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
