"""SSH session: a command over a master of OpenSSH, with the methods of paramiko's Channel that Stream uses."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable

PIECE = 1 << 18
NOISE = re.compile(r"^(debug\d:|OpenSSH_|Transferred:|Bytes per second:|Warning: Permanently|Authenticated to )")
OPENED, REFUSED = re.compile("master session id"), re.compile("refused by peer")  # a session of a master
MASTER_ENDS_S = 2.0  # after a session that lost its connection
LOST = re.compile(r"read_packet|[Cc]onnection closed|Broken pipe")  # of ssh, not of the command


class SshSession:
    """A session of a master."""

    def __init__(self, command: list[str], silence_s: float, is_connected: Callable[[], bool]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                         bufsize=0, start_new_session=True)
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._in = self._process.stdin
        os.set_blocking(self._in.fileno(), False)
        self._out, self._err = _Pipe(self._process.stdout.fileno()), _Pipe(self._process.stderr.fileno())
        self._is_connected = is_connected
        self._silence_s: float | None = silence_s
        self.closed = False
        self.exit_status = -1
        self.status_event = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        code = self._process.wait()
        lost = code == 255 and (LOST.search(self._err.text()) or self._master_ends())
        self.exit_status = -1 if lost or code < 0 else code
        self.status_event.set()

    def _master_ends(self) -> bool:
        """Return whether the master ends, too: 255 is the code of a lost connection, and may be that of a command."""
        ends_s = time.monotonic() + MASTER_ENDS_S
        while self._is_connected() and time.monotonic() < ends_s:
            time.sleep(0.02)
        return not self._is_connected()

    def opens(self, timeout_s: float) -> bool:
        """Wait until the master has opened the session; return False where sshd refuses one. Raise OSError."""
        ends_s = time.monotonic() + timeout_s
        while not OPENED.search(said := self._err.text()):
            if REFUSED.search(said):
                return False
            if self.status_event.wait(0.002) and not OPENED.search(self._err.text()):
                raise OSError(" ".join(line for line in self._err.text().splitlines() if not NOISE.match(line))[-300:]
                              or "ssh ended")
            if time.monotonic() > ends_s:
                raise TimeoutError
        return True

    def settimeout(self, silence_s: float | None) -> None:
        self._silence_s = silence_s

    def sendall(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            if not select.select([], [self._in], [], self._silence_s)[1]:
                raise TimeoutError
            view = view[self._in.write(view) or 0:]

    def shutdown_write(self) -> None:
        with contextlib.suppress(OSError):
            self._in.close()

    def recv(self, size: int) -> bytes:
        return self._out.read(size, self._silence_s)

    def recv_stderr(self, size: int) -> bytes:
        return self._err.read(size, self._silence_s)

    def recv_ready(self) -> bool:
        return self._out.ready()

    def recv_stderr_ready(self) -> bool:
        return self._err.ready()

    @property
    def eof_received(self) -> bool:
        return not self._out.ready() and self._out.ended

    def exit_status_ready(self) -> bool:
        return self.status_event.is_set()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            end_group(self._process)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()


class _Pipe:
    """The reading end of a pipe, with what has been read ahead."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._ahead = b""
        self._lock = threading.Lock()
        self.ended = False

    def ready(self) -> bool:
        """Return whether a read would give bytes at once."""
        with self._lock:
            self._fill(0)
            return bool(self._ahead)

    def read(self, size: int, timeout_s: float | None) -> bytes:
        """Return up to `size` bytes; b"" at the end. Raise TimeoutError."""
        with self._lock:
            if not self._ahead and not self.ended and not self._fill(timeout_s):
                raise TimeoutError
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
            return piece

    def text(self) -> str:
        """Return what has been read ahead and can be read at once."""
        with self._lock:
            while not self.ended and select.select([self._number], [], [], 0)[0] and len(self._ahead) < PIECE:
                piece = os.read(self._number, PIECE)
                self._ahead += piece
                self.ended = not piece
            return self._ahead.decode("utf-8", "replace")

    def _fill(self, timeout_s: float | None) -> bool:
        """Read a piece if there is none; return whether there is one, or the end."""
        if self._ahead or self.ended:
            return True
        if not select.select([self._number], [], [], timeout_s)[0]:
            return False
        self._ahead = os.read(self._number, PIECE)
        self.ended = not self._ahead
        return True


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, which may hold its stderr open."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
