"""Stream: a running command on a host, over a channel of a Connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import paramiko

from rdtops.errors import CommandFailed, CommandTimeout, ConnectionLost, HostError, RemoteError
from rdtops.porter.wire import SLOWEST_LINE_BYTES_PER_S, Wire
from rdtops.ssh.channels import login_shell
from rdtops.ssh.channels.login_shell import Preamble
from rdtops.ssh.command import GREETING
from rdtops.ssh.login.openssh_errors import unfit_python
from rdtops.ssh.transport import BACKLOG_BYTES

if TYPE_CHECKING:
    from rdtops.ssh.connection import Connection

PING_AFTER_S = 10.0  # without output of a command
PING_S = 15.0  # a busy jump host may be slow
OUTPUT_BYTES = 1 << 24  # of a command
LAST_OUTPUT_S = 2.0  # wait for output after the exit status
LAST_WORDS_BYTES = 1 << 16  # of unread stderr
_PIECE = 1 << 18


class Stream:
    """A running remote command. Every read and write fails after `silence_s` without a byte. What the login shell
    prints before the command runs is no output of it."""

    def __init__(self, connection: Connection, channel: paramiko.Channel, line: str, silence_s: float, *,
                 has_input: bool = True) -> None:
        """`has_input`: as the line was made by for_the_host."""
        self._connection = connection
        self._channel = channel
        self.runs = line  # its name in errors
        self._silence_s = silence_s
        self._before_out, self._before_err = Preamble(), Preamble()
        self._ahead = b""  # output that came together with the end of the preamble
        # It goes with the first bytes: a second small packet would wait for the first
        self._greeting = GREETING if has_input else b""
        self.wire = Wire(self._read_all, self.write, self.readable)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.sessions.end(self._channel)

    def write(self, content: bytes | memoryview) -> None:
        greeting, self._greeting = self._greeting, b""
        view = memoryview(greeting + content if greeting else content)
        with self._errors():
            for start in range(0, len(view), _PIECE):  # sendall copies all the rest at every packet
                self._channel.sendall(bytes(view[start:start + _PIECE]))

    def end_input(self) -> None:
        self._greet()
        with self._errors():
            self._channel.shutdown_write()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; b"" at the end of the output."""
        self._greet()
        with self._errors():
            while not self._ahead and (piece := self._channel.recv(size)):
                self._ahead = self._rest(self._before_out, piece)
        piece, self._ahead = self._ahead[:size], self._ahead[size:]
        return piece

    def readable(self) -> bool:
        """Return whether a read would return at once, with data or with the end of the output."""
        has_data = self._has_begun() and (self._ahead or self._channel.recv_ready())
        return bool(has_data or self._channel.eof_received or self._channel.closed)

    def _greet(self) -> None:
        if self._greeting:
            self.write(b"")

    def _rest(self, before: Preamble, piece: bytes) -> bytes:
        """Return what of a piece is output of the command."""
        rest = before.rest(piece)
        if before.is_too_long:
            raise self._unheard(login_shell.TOO_LONG)
        return rest

    def _read_all(self, _: int) -> bytes:
        """Return all buffered bytes, because paramiko copies what a read leaves behind. At the end, raise the error
        that says why nothing more comes."""
        piece = self.read(1 << 26)
        if not piece:
            raise self._ended_early()
        return piece

    def errors(self) -> str:
        """Return the last LAST_WORDS_BYTES of the stderr that has arrived."""
        tail = b""
        with contextlib.suppress(OSError):
            for _ in range(BACKLOG_BYTES // _PIECE):
                if not self._channel.recv_stderr_ready():
                    break
                tail = (tail + self._before_err.rest(self._channel.recv_stderr(_PIECE)))[-LAST_WORDS_BYTES:]
        return tail.decode("utf-8", "replace")

    def finish(self, stdin: bytes, timeout_s: float, limit: int = OUTPUT_BYTES) -> tuple[bytes, bytes]:
        """Send stdin, close it, and read stdout and stderr, at most `limit` bytes in all, until both end or `timeout_s`
        is over, plus the time that the slowest line needs for the bytes read. A command may be silent for long; ping
        the hops now and then to find a frozen connection."""
        heard_s = time.monotonic()
        deadline = heard_s + timeout_s
        self.write(stdin)
        self.end_input()
        out, err = bytearray(), bytearray()
        has_ended = False
        self._channel.settimeout(0.05)
        while self._pending() or not self._over():
            now_s = time.monotonic()
            took = self._take(out, err)
            if not has_ended and self._channel.exit_status_ready():
                has_ended = took = True
            if took:
                heard_s = now_s
            size = len(out) + len(err)
            if size > limit:
                raise self._too_much(limit)
            late = now_s > deadline + size / SLOWEST_LINE_BYTES_PER_S
            if has_ended and (late or now_s > heard_s + LAST_OUTPUT_S):
                break  # a child process holds its pipes open
            if late:
                raise self._too_slow(timeout_s)
            if not took:
                if now_s - heard_s > PING_AFTER_S:
                    self._connection.ping(PING_S)
                    heard_s = time.monotonic()
                if has_ended:
                    time.sleep(0.005)
                self._channel.status_event.wait(0.005)
        return bytes(out), bytes(err)

    def _take(self, out: bytearray, err: bytearray) -> bool:
        """Read what has arrived; return whether there was anything."""
        took = len(self._ahead)
        out += self._ahead
        self._ahead = b""
        if self._channel.recv_ready():
            took += len(piece := self._channel.recv(1 << 20))
            out += self._rest(self._before_out, piece)
        if self._channel.recv_stderr_ready():
            took += len(piece := self._channel.recv_stderr(1 << 20))
            err += self._rest(self._before_err, piece)
        return took > 0

    def _over(self) -> bool:
        """Return whether the command is over. The exit status may arrive before the last output."""
        return bool(self._channel.closed or (self._channel.exit_status_ready() and self._channel.eof_received))

    def code(self, timeout_s: float = 10.0) -> int:
        """Return the exit code. Raise ConnectionLost when the connection was lost first: the outcome is unknown."""
        if not self._channel.status_event.wait(timeout_s):
            raise self._too_slow(timeout_s)
        code: int = self._channel.exit_status
        if code == -1:
            raise self._ended_early()
        if not self._has_begun():
            raise self._unheard(f"exit {code}")
        return code

    def _has_begun(self) -> bool:
        """Return whether the login shell has run our line, as far as its output has arrived."""
        with contextlib.suppress(OSError):
            while not (self._before_out.is_over or self._before_out.is_too_long) and self._channel.recv_ready():
                self._ahead = self._before_out.rest(self._channel.recv(_PIECE))
        return self._before_out.is_over

    def _unheard(self, how: str) -> HostError:
        """Return the error for a login shell that did not run our line."""
        self.errors()
        self._channel.close()
        return login_shell.unheard(self._connection.host, how, self._before_out.noise,
                                   b"" if self._before_err.is_over else self._before_err.noise)

    def _pending(self) -> bool:
        return bool(self._ahead or self._channel.recv_ready() or self._channel.recv_stderr_ready())

    def _too_much(self, limit: int) -> CommandFailed:
        self._channel.close()
        return CommandFailed(f"{self._connection.host.name}: more than {limit} bytes of output from: "
                             f"{self.runs[:200]}")

    def _too_slow(self, timeout_s: float) -> RemoteError | HostError:
        self._channel.close()
        try:
            self._connection.ping()
        except ConnectionLost as error:
            return error
        if not self._has_begun():
            return self._unheard(f"no answer within {timeout_s:g} s")
        return CommandTimeout(f"{self._connection.host.name}: timed out after {timeout_s:g} s: {self.runs[:200]}")

    def _ended_early(self) -> RemoteError | HostError:
        """Return why nothing more comes: the command ended (its exit code is known), or the connection was lost."""
        ended_itself = self._channel.status_event.wait(2.0) and self._channel.exit_status != -1
        errors = self.errors().strip()[-600:]
        host = self._connection.host
        if not ended_itself:
            lost = self._connection.lost("the connection was closed or the command was killed"
                                         + (f" ({errors})" if errors else ""))
            if lost.hop or not self._connection.alive:
                return lost
            if not self._has_begun():
                return self._unheard("the session was closed")
            return CommandFailed(f"{host.name}: killed by a signal: {self.runs[:120]}\n{errors}")
        if not self._has_begun():
            return self._unheard(f"exit {self._channel.exit_status}")
        return unfit_python(host, self._channel.exit_status, errors) or CommandFailed(
            f"{host.name}: exit {self._channel.exit_status} from: {self.runs[:120]}\n{errors}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:  # socket.timeout is the same class
            if not self._has_begun():
                raise self._too_slow(self._silence_s) from error
            named = self._connection.lost(f"no byte moved for {self._silence_s:g} s")
            self._connection.close()
            raise named from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._ended_early() from error
