"""MaxSessions: wait for a session where the host's sshd allows only some at a time on one connection."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import paramiko

from rdtops.errors import SessionRefused
from rdtops.ssh.hosts import Host

WAIT_S = 900.0  # for a session of another thread to end: a comparison of MD5 sums may take minutes
ENDING_S = 60.0  # for sshd to count out a session that we ended: it waits for its program to end
OWN_WAIT_S = 5.0  # where none was ended, and only the asker itself could end one
PAUSE_S = 0.05  # between two attempts at first; it doubles up to LONGEST_PAUSE_S
LONGEST_PAUSE_S = 1.0


class Sessions:
    """The open sessions of a connection."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ended = threading.Condition()
        self._owners: dict[paramiko.Channel, int] = {}  # which thread opened it
        self._spare: set[paramiko.Channel] = set()  # opened without waiting
        self._lent: list[Callable[[], None]] = []
        self._ended_s = 0.0  # when one was ended last

    def opened(self, attempt: Callable[[], paramiko.Channel | None], wait: bool = True) -> paramiko.Channel:
        """Return a new session. `attempt` returns None where sshd refuses one: then wait until one of ours ends, and
        try again. Raise SessionRefused in bounded time, without `wait` at once; a session without `wait` is ended where
        another one is needed more."""
        begun_s, pause_s = time.monotonic(), PAUSE_S
        while (channel := attempt()) is None:
            if wait:
                self._give_way()
            with self._ended:
                if not wait or time.monotonic() - begun_s > self._patience_s():
                    raise self._refused(time.monotonic() - begun_s)
                self._ended.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        with self._ended:
            self._owners[channel] = threading.get_ident()
            if not wait:
                self._spare.add(channel)
        return channel

    def end(self, channel: paramiko.Channel) -> None:
        """Close a session, and let another one begin."""
        with contextlib.suppress(Exception):  # close it in whatever state it is
            channel.close()
        with self._ended:
            self._owners.pop(channel, None)
            self._spare.discard(channel)
            self._ended_s = time.monotonic()
            self._ended.notify_all()

    def lend(self, give_way: Callable[[], None]) -> None:
        """Call `give_way` whenever a session is refused, to end one that is idle; until take_back."""
        self._lent = [*self._lent, give_way]

    def take_back(self, give_way: Callable[[], None]) -> None:
        self._lent = [lent for lent in self._lent if lent != give_way]

    def _give_way(self) -> None:
        for give_way in self._lent:
            give_way()
        for channel in list(self._spare):
            self.end(channel)

    def _patience_s(self) -> float:
        if any(owner != threading.get_ident() for owner in self._owners.values()):
            return WAIT_S
        return ENDING_S if self._ended_s and time.monotonic() < self._ended_s + ENDING_S else OWN_WAIT_S

    def _refused(self, waited_s: float) -> SessionRefused:
        count, name = len(self._owners), self._host.name
        allowed = f"allows only {count} session{'s' if count > 1 else ''} at a time (MaxSessions)" if count else \
            "opens no session (MaxSessions 0, or it can start no process)"
        return SessionRefused(f"{name}: its sshd {allowed}, and none ended within {waited_s:.0f} s",
                              remedy=f"MaxSessions 10 in /etc/ssh/sshd_config of {name} is sshd's default; ask its "
                              "administrator for it")
