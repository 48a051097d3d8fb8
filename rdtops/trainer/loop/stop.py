"""Stop requests: signals that ask a training to stop early."""

from __future__ import annotations

import signal

from rdtops.trainer.child_processes import STOPS

OF_TERMINALS = (signal.SIGINT, signal.SIGHUP)  # nohup, launch.sh and a shell's `&` have them ignored
STOPPED = 128 + signal.SIGTERM  # an exit code, as in a shell


class Stop:
    """A stop request. `signal`: the signal received, or 0. Before the first step there is nothing to save, so a signal
    then ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.can_save = False
        for number in STOPS:
            if number not in OF_TERMINALS or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: object) -> None:
        self.signal = number
        if not self.can_save:
            raise SystemExit(128 + number)
