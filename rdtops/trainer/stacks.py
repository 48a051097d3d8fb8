"""Stacks: on SIGUSR2, which the supervisor sends, a process writes the Python stack of each of its threads to its log.

The signal may come to a process that only waits: it must not disturb it. A system call that the handler interrupts is
not always begun again: torch 2.1 fails with `Interrupted system call` where it waits for the other ranks. So one thread
does nothing but receive the signal, and all others block it.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time

REQUEST = signal.SIGUSR2


def write_on_request() -> None:
    """Call it first in a program's main thread: threads inherit what it blocks."""
    faulthandler.enable()  # a crash in a library leaves its stack, too
    signal.pthread_sigmask(signal.SIG_BLOCK, {REQUEST})
    faulthandler.register(REQUEST, all_threads=True)
    threading.Thread(target=_receive, name="stacks", daemon=True).start()


def _receive() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {REQUEST})
    while True:
        time.sleep(3600)
