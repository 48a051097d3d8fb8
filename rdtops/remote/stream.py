"""Stream: a command that runs on a host, over a channel of a Connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import paramiko

from rdtops.errors import CommandFailed, CommandTimeout, ConnectionLost, HostError, RemoteError
from rdtops.remote.far.wire import Wire

if TYPE_CHECKING:
    from rdtops.remote.connection import Connection

PING_AFTER_S = 10.0  # of silence of a command that is waited for
PING_S = 15.0  # a busy jump may take its time
_PIECE = 1 << 18


class Stream:
    """A running remote command. Every read and write is bounded by `silence_s` without a byte."""

    def __init__(self, connection: Connection, channel: paramiko.Channel, line: str, silence_s: float) -> None:
        self._connection = connection
        self._channel = channel
        self._line = line
        self._silence_s = silence_s
        self.wire = Wire(self._read_all, self.write, self.readable)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._channel.close()

    def write(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        with self._errors():
            for start in range(0, len(view), _PIECE):  # sendall copies all that is left at every packet
                self._channel.sendall(bytes(view[start:start + _PIECE]))

    def end_input(self) -> None:
        with self._errors():
            self._channel.shutdown_write()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; nothing at the end of the output."""
        with self._errors():
            piece: bytes = self._channel.recv(size)
            return piece

    def readable(self) -> bool:
        """Whether a read would not wait: something is there, or the end is."""
        return bool(self._channel.recv_ready() or self._channel.eof_received or self._channel.closed)

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes. Raises ConnectionLost when the other side ends before that."""
        pieces, missing = [], size
        while missing:
            piece = self.read(min(missing, 1 << 20))
            if not piece:
                raise self._ended_early()
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _read_all(self, _: int) -> bytes:
        """All that is there: paramiko copies what a read leaves behind. Raises ConnectionLost at the end."""
        return self.read(1 << 26) or self.read_exactly(1)

    def errors(self) -> str:
        """What is there of stderr now."""
        pieces = []
        with contextlib.suppress(OSError):
            while self._channel.recv_stderr_ready():
                pieces.append(self._channel.recv_stderr(1 << 16))
        return b"".join(pieces).decode("utf-8", "replace")

    def finish(self, stdin: bytes, timeout_s: float) -> tuple[bytes, bytes]:
        """Send stdin, end it, and gather stdout and stderr until both end or `timeout_s` is over. A command may be
        silent for long; a link that froze meanwhile is found by asking its hops now and then."""
        deadline = time.monotonic() + timeout_s
        heard_s = time.monotonic()
        self.write(stdin)
        self.end_input()
        out, err = bytearray(), bytearray()
        self._channel.settimeout(0.05)
        while not (self._channel.exit_status_ready() or self._channel.closed) or self._pending():
            took = 0
            if self._channel.recv_ready():
                took += len(piece := self._channel.recv(1 << 20))
                out += piece
            if self._channel.recv_stderr_ready():
                took += len(piece := self._channel.recv_stderr(1 << 20))
                err += piece
            if took:
                heard_s = time.monotonic()
            else:
                if time.monotonic() > deadline:
                    raise self._too_slow(timeout_s)
                if time.monotonic() - heard_s > PING_AFTER_S:
                    self._connection.ping(PING_S)
                    heard_s = time.monotonic()
                self._channel.status_event.wait(0.005)
        # the exit status may arrive before the last output
        self._channel.settimeout(2.0)
        with contextlib.suppress(OSError):
            while piece := self._channel.recv(1 << 20):
                out += piece
            while piece := self._channel.recv_stderr(1 << 20):
                err += piece
        return bytes(out), bytes(err)

    def code(self, timeout_s: float = 10.0) -> int:
        """The exit code. Raises ConnectionLost when the link went away first: then the outcome is unknown."""
        if not self._channel.status_event.wait(timeout_s):
            raise self._too_slow(timeout_s)
        code: int = self._channel.exit_status
        if code == -1:
            raise self._ended_early()
        return code

    def _pending(self) -> bool:
        return bool(self._channel.recv_ready() or self._channel.recv_stderr_ready())

    def _too_slow(self, timeout_s: float) -> RemoteError | HostError:
        self._channel.close()
        try:
            self._connection.ping()
        except ConnectionLost as error:
            return error
        return CommandTimeout(f"{self._connection.host.name}: no end within {timeout_s:g} s of: {self._line[:200]}")

    def _ended_early(self) -> RemoteError | HostError:
        """Why nothing more comes: the command ended by itself (its exit code is there), or the link went away."""
        ended_itself = self._channel.status_event.wait(2.0) and self._channel.exit_status != -1
        said = self.errors().strip()[-600:]
        host = self._connection.host
        if not ended_itself:
            return self._connection.lost("the link or the command was cut" + (f" ({said})" if said else ""))
        if self._channel.exit_status == 127:
            return CommandFailed(f"{host.name}: {said or 'command not found'}",
                                 remedy=f"set hosts.{host.name}.python in hosts.toml to a Python 3.8 or newer")
        return CommandFailed(f"{host.name}: exit {self._channel.exit_status} from: {self._line[:120]}\n{said}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:  # socket.timeout is the same class
            named = self._connection.lost(f"no byte moved for {self._silence_s:g} s")
            self._connection.close()
            raise named from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._ended_early() from error
