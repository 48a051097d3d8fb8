"""Exit codes in words: what a process ended with, as Python (-11) or a shell (139) counts it. Signals have the numbers
of Linux, as on a host."""

from __future__ import annotations

CRASHES = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}  # of a native library
SIGNALS = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 9: "SIGKILL", 10: "SIGUSR1", 12: "SIGUSR2", 13: "SIGPIPE",
           14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ", **CRASHES}
OF_A_SIGNAL = 128  # a shell adds it to the number of the signal
MEANINGS = {
    4: "a native library has instructions that this processor lacks",
    7: "a native library crashed: a full /dev/shm, or a file that was cut while it was mapped",
    9: "killed, by somebody or by the kernel for its memory"}


def signal_of(code: int) -> int | None:
    """Return the number of the signal that ended a process; None for an ordinary exit code."""
    number = -code if code < 0 else code - OF_A_SIGNAL
    return number if number in SIGNALS else None


def words(code: int | None) -> str:
    """Return `exit code 1`, or `SIGSEGV (exit 139): a native library crashed`."""
    if code is None:
        return "no exit code"
    number = signal_of(code)
    if number is None:
        return f"exit code {code}"
    known = MEANINGS.get(number, "a native library crashed" if number in CRASHES else "")
    return f"{SIGNALS[number]} (exit {OF_A_SIGNAL + number})" + (f": {known}" if known else "")


def by_signal(number: int) -> str:
    """Return how a signal ended a process, for people."""
    name = SIGNALS.get(number, f"signal {number}")
    return f"a library crashed ({name})" if number in CRASHES else f"killed from outside ({name})"


def is_signal(code: int | None) -> bool:
    return code is not None and signal_of(code) is not None


def is_crash(code: int | None) -> bool:
    """Tell whether a native library ended the process: SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT."""
    return code is not None and signal_of(code) in CRASHES
