"""Stop requests: signals that ask a training to stop early."""

from __future__ import annotations

import signal

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # from a launcher or `inv stop`; from Slurm before a time limit
STOPPED = 128 + signal.SIGTERM  # an exit code, as in a shell


class Stop:
    """A stop request. `signal`: the signal received, or 0. Before the first step there is nothing to save, so a signal
    then ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.can_save = False
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: object) -> None:
        self.signal = number
        if not self.can_save:
            raise SystemExit(128 + number)
