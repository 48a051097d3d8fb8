"""The program that is supervised: started in a session of its own, waited for together with our own signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_HEARD = (*STOPS, signal.SIGCHLD)
_NOT_HUP = "SIGTERM,SIGINT,SIGQUIT"  # torchrun would end its ranks when a terminal goes


def hear() -> None:
    """From now on signals wait until `wait` asks for them. SIGHUP is of no interest."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)


class Program:
    """One start of it. Output goes where ours goes."""

    def __init__(self, words: Sequence[str]) -> None:
        sys.stdout.flush()
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_unblock,  # noqa: PLW1509  # one thread
            env={**os.environ, "TORCHELASTIC_SIGNALS_TO_HANDLE": _NOT_HUP})

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -9 for signal 9."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            self._process.send_signal(number)


def wait(limit_s: float) -> signal.Signals | None:
    """Until a child has ended, a signal asks for the end, or the limit. Returns the one that asked."""
    heard = signal.sigtimedwait(_HEARD, limit_s)
    return signal.Signals(heard.si_signo) if heard and heard.si_signo in STOPS else None


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
