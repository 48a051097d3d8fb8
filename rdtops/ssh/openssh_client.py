"""OpenSSH client: transfers over `ssh` processes, which are faster than paramiko; one connection for every stream.

Each process logs in by itself through the jumps, with the same keys, the same host key checking and the same
known_hosts on every hop as Connection; see openssh_config. Its stderr shows the progress of the login, and the time of
a round trip.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from rdtops.errors import CommandFailed, ConnectionLost, RdtopsError, Unreachable
from rdtops.hostlib.names import quoted as quoted_word
from rdtops.porter.entries import Problem
from rdtops.porter.wire import Heartbeat, Wire
from rdtops.ssh import bundle
from rdtops.ssh.channels import login_shell
from rdtops.ssh.channels.login_shell import Preamble
from rdtops.ssh.command import GREETING, READY, for_the_host
from rdtops.ssh.hosts import Host
from rdtops.ssh.login import ssh_config
from rdtops.ssh.login.openssh_errors import Refused, explained, unfit_python
from rdtops.ssh.login.openssh_master import LOGIN_S, first_silent
from rdtops.ssh.login.ssh_session import end_group
from rdtops.ssh.openssh_config import configured, destination

PIPE_BYTES = 1 << 20  # with Linux's 64 KiB, ssh and we wake each other up too often
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before a login is tried again at a hop that accepts no more now
LOGINS = 4  # at a time at one hop; OpenSSH drops some at random beyond 10 (MaxStartups), and others log in as well
STDERR_BYTES = 1 << 24  # of ssh and of the program on the host; beyond it the process is killed
STDERR_LINE_BYTES = 1 << 12

def present() -> bool:
    return ssh_config.is_installed()


class SshClient:
    """The part of Connection that a transfer needs, over `ssh` processes. Use it as a context manager."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._folder = configured(host)
        self._config = Path(self._folder.name) / "config"
        self._processes: list[SshProcess] = []
        self._idle: list[SshProcess] = []
        self._turn = threading.Condition()
        self._home = ""
        self._closed = False

    @property
    def logs_in_alone(self) -> bool:
        """Always True: it cannot ask a person."""
        return True

    def __enter__(self) -> SshClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
        self._folder.cleanup()

    @property
    def rtt_s(self) -> float | None:
        """The round trip time to the first hop; None until a process has reached it."""
        return next((p.rtt_s for p in self._processes if p.rtt_s is not None), None)

    def absolute(self, path: str) -> str:
        """Return an absolute path on the host, as Connection.absolute does."""
        if path.startswith("/"):
            return path
        if not self._home:
            self._home = self._asked_home()
        return self._home + path[1:] if path == "~" or path.startswith("~/") else f"{self._home}/{path}"

    def _asked_home(self) -> str:
        from rdtops.porter import porter

        with self.far(porter, {"do": "home"}) as process, Heartbeat(process.wire, process.kill):
            try:
                home = process.wire.hear()["home"]
            except Problem as problem:
                raise CommandFailed(f"{self.host.name}: {problem.reason}") from None
        if not isinstance(home, str) or not home.startswith("/"):
            raise CommandFailed(f"{self.host.name}: its home is not an absolute path: {quoted_word(home)}")
        return home

    def far(self, program: ModuleType, request: dict[str, Any], *, silence_s: float = 0.0,  # noqa: ARG002
            wait: bool = True) -> SshProcess:  # noqa: ARG002
        """Send a request to a host program, an idle one or a new one."""
        with self._turn:
            process = self._idle.pop() if self._idle else None
        if process is None:
            process = self._logged_in(program)
        process.wire.say(request)  # sent together with the next message
        return process

    def _logged_in(self, program: ModuleType) -> SshProcess:
        """Start a process and wait for its login; try again later where a hop is busy. Raise a HostError."""
        for pause_s in PAUSES_S:
            with contextlib.suppress(Refused):
                return self._let_in(program)
            time.sleep(pause_s)
        return self._let_in(program)

    def _let_in(self, program: ModuleType) -> SshProcess:
        process = self.start(program)  # raises what ended it while its input was written
        if not process.let_in():
            raise process.end()
        return process

    def start(self, program: ModuleType) -> SshProcess:
        """Start another process, at most LOGINS logins at one hop at a time."""
        with self._turn:
            while not self._may_log_in() and not self._closed:
                self._turn.wait(0.02)
            if self._closed:
                raise ConnectionLost(f"{self.host.name}: the transfer was closed")
            process = SshProcess(self, self._config)
            self._processes.append(process)
        process.write(GREETING + bundle.packed(program))
        return process

    def release(self, process: SshProcess) -> None:
        with self._turn:
            self._idle.append(process)

    def ping(self, timeout_s: float = 5.0) -> float:
        """Return the seconds that a login takes at every hop. Raise ConnectionLost that names the first hop that does
        not answer."""
        start_s = time.monotonic()
        if hop := first_silent(self.host, self._config, timeout_s):
            raise ConnectionLost(f"lost {self.host.name} ({self.host.route_words}): no answer from {hop.name} within "
                                 f"{timeout_s:g} s", remedy=f"inv hosts --ping --host {self.host.name}   # then run "
                                 "the same command again")
        return time.monotonic() - start_s

    def close(self) -> None:
        self._closed = True
        for process in list(self._processes):
            process.close()

    def _may_log_in(self) -> bool:
        at_hop = [p.passed for p in self._processes if p.alive]
        return all(at_hop.count(hop) < LOGINS for hop in range(len(self.host.route)))


class SshProcess:
    """One `ssh` process with a host program at its other end; what Stream is for a Connection."""

    def __init__(self, client: SshClient, config: Path) -> None:
        self._client = client
        self.passed = 0  # hops that we are logged in to
        self.rtt_s: float | None = None
        self._errors: list[str] = []
        self._has_begun = False  # the login shell has run our line
        self._was_killed = False  # by a signal, on the host
        self._decided = threading.Event()  # the login at the last hop succeeded, or a login failed
        self._before_out = Preamble()
        line = for_the_host(bundle.line(client.host.python))
        self._process = subprocess.Popen(
            ["ssh", "-F", str(config), destination(client.host), line], bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError, AttributeError):  # not on macOS, or at the user's limit
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.wire = Wire(self._read_some, self.write, self.readable)

    def __enter__(self) -> SshProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.alive:
            self._client.release(self)
        else:
            self.kill()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def let_in(self) -> bool:
        """Wait for the login; return whether it succeeded."""
        if not self._decided.wait(LOGIN_S + sum(hop.connect_timeout_s for hop in self._client.host.route)):
            self.kill()
        return self.passed >= len(self._client.host.route)

    def write(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[self._in.write(view):]
        except (OSError, ValueError) as error:  # ValueError: closed by us
            raise self.end() from error

    def read(self, size: int) -> bytes:
        try:
            while piece := self._out.read(size):
                if rest := self._before_out.rest(piece):
                    return rest
                if self._before_out.is_too_long:
                    break
            return b""
        except (OSError, ValueError) as error:
            raise self.end() from error

    def read_exactly(self, _: int) -> bytes:
        """Raise why it ended; called only at the end of the output."""
        raise self.end()

    def readable(self) -> bool:
        return self._before_out.is_over and bool(select.select([self._out], [], [], 0)[0])

    def kill(self) -> None:
        if self.alive:
            end_group(self._process)
        self._process.wait()

    def close(self) -> None:
        """Kill it and close its pipes, when it is no longer used."""
        self.kill()
        self._listener.join(1)
        for pipe in (self._in, self._out, self._process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def end(self) -> RdtopsError:
        """Kill it and return the error that says why it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self.kill()
        self._listener.join(1)
        return self._explained(self._process.returncode, "\n".join(self._errors))

    def _read_some(self, size: int) -> bytes:
        return self.read(size) or self.read_exactly(1)

    def _listen(self) -> None:
        """Follow the login in stderr: debug1: Connecting to HOST port N / Connection established. / Authenticated to
        HOST ..."""
        start_s = time.monotonic()
        for line in self._lines():
            if line.startswith("debug1: Connecting to"):
                start_s = time.monotonic()
            elif line.startswith("debug1: Connection established") and self.rtt_s is None:
                self.rtt_s = time.monotonic() - start_s
            elif line.startswith("Authenticated to "):
                self.passed += 1
                if self.passed == len(self._client.host.route):
                    self._decided.set()
            elif "rtype exit-signal" in line:
                self._was_killed = True
            elif line.encode() + b"\n" == READY:  # what came before is of the login shell
                self._errors, self._has_begun = [], True
            elif not line.startswith(("debug1:", "Transferred:", "Bytes per second:", "OpenSSH_", "Warning: Perm")):
                self._errors = [*self._errors[-30:], line]
        self._decided.set()

    def _lines(self) -> Iterator[str]:
        assert self._process.stderr
        rest, size = b"", 0
        with contextlib.suppress(ValueError, OSError):
            while piece := self._process.stderr.read(1 << 16):  # at once: its own lines would be read byte by byte
                size += len(piece)
                if size > STDERR_BYTES:
                    yield f"more than {STDERR_BYTES} bytes on stderr"
                    self._process.kill()
                    return
                *lines, rest = (rest[:STDERR_LINE_BYTES] + piece).split(b"\n")
                yield from (line[:STDERR_LINE_BYTES].decode("utf-8", "replace").rstrip() for line in lines)
        yield rest[:STDERR_LINE_BYTES].decode("utf-8", "replace")

    def _explained(self, code: int, errors: str) -> RdtopsError:
        host = self._client.host
        route = f"{host.name} ({host.route_words})"
        inside = self.passed >= len(host.route)
        if inside and self._before_out.is_too_long:
            return login_shell.unheard(host, login_shell.TOO_LONG, self._before_out.noise, b"")
        if inside and not self._has_begun and (code not in (255, -9) or self._before_out.noise):
            how = f"exit {code}" if code >= 0 else "no answer"
            return login_shell.unheard(host, how, self._before_out.noise, errors.encode())
        if inside and self._was_killed:
            return CommandFailed(f"{host.name}: killed by a signal\n{errors[-600:]}".rstrip())
        if inside and code not in (255, -9):
            return unfit_python(host, code, errors) or CommandFailed(f"{host.name}: exit {code}\n{errors[-600:]}")
        if inside:
            why = f" ({errors[-300:]})" if errors else ""
            return ConnectionLost(f"lost {route}: the connection was closed or the command was killed{why}",
                                  remedy=f"inv hosts --ping --host {host.name}   # then run the same command again")
        return explained(errors, host, self.passed) or Unreachable(
            f"cannot reach {route}: {errors[-300:] or 'no answer'}", remedy=f"inv hosts --ping --host {host.name}")
