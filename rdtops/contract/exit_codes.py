"""Exit codes in words: what a process ended with, as Python (-11) or a shell (139) counts it."""

from __future__ import annotations

import signal

CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
OF_A_SIGNAL = 128  # a shell adds it to the number of the signal


def signal_of(code: int) -> signal.Signals | None:
    """Return the signal that ended a process; None for an ordinary exit code."""
    number = -code if code < 0 else code - OF_A_SIGNAL
    try:
        return signal.Signals(number) if number > 0 else None
    except ValueError:
        return None


def words(code: int | None) -> str:
    """Return `exit code 1`, or `SIGSEGV (exit 139): a native library crashed`."""
    if code is None:
        return "no exit code"
    ended_by = signal_of(code)
    if ended_by is None:
        return f"exit code {code}"
    known = _MEANINGS.get(ended_by, "a native library crashed" if ended_by in CRASHES else "")
    return f"{ended_by.name} (exit {OF_A_SIGNAL + ended_by})" + (f": {known}" if known else "")


def is_signal(code: int | None) -> bool:
    return code is not None and signal_of(code) is not None


def is_crash(code: int | None) -> bool:
    """Tell whether a native library ended the process: SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT."""
    return code is not None and signal_of(code) in CRASHES


_MEANINGS = {
    signal.SIGILL: "a native library has instructions that this processor lacks",
    signal.SIGBUS: "a native library crashed: a full /dev/shm, or a file that was cut while it was mapped",
    signal.SIGKILL: "killed, by somebody or by the kernel for its memory",
}
