"""Supervised program: started in its own session; the supervisor waits for it and for signals together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from rdtops.contract import variables

STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_HEARD = (*STOPS, signal.SIGCHLD)
_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"


def hear() -> None:
    """Block signals from now on, until `wait` takes them. SIGHUP is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)


class Program:
    """One start of the program. It inherits the output."""

    def __init__(self, words: Sequence[str]) -> None:
        sys.stdout.flush()
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_unblock,  # noqa: PLW1509  # one thread
            env={**os.environ, _SIGNALS: variables.value(_SIGNALS)})

    @property
    def exit_code(self) -> int | None:
        """Return the exit code: None while it runs; -9 for signal 9."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            self._process.send_signal(number)


def wait(limit_s: float) -> signal.Signals | None:
    """Wait until a child has ended, a signal asks to stop, or the limit. Return that signal."""
    heard = signal.sigtimedwait(_HEARD, limit_s)
    return signal.Signals(heard.si_signo) if heard and heard.si_signo in STOPS else None


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
