"""Connection: an authenticated SSH connection to a host through its jump hosts, host keys checked on every hop.

Fabric logs in hop by hop; OpenSSH does where Fabric cannot (login.ssh_config.transport). Every remote call has a time
limit: paramiko waits for ever on a frozen peer, so a watchdog closes the whole connection at the limit.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType, TracebackType
from typing import Any

import paramiko

from rdtops.errors import (
    AuthenticationFailed,
    CommandFailed,
    ConfigError,
    ConnectionLost,
    Incompatible,
    RdtopsError,
    RemoteError,
)
from rdtops.hostlib.fields import loads
from rdtops.ssh import bundle, call_log, exceptions
from rdtops.ssh.channels import login_shell
from rdtops.ssh.channels.max_sessions import Sessions
from rdtops.ssh.command import Command, for_a_terminal, for_the_host
from rdtops.ssh.hosts import FABRIC, OPENSSH, Hop, Host
from rdtops.ssh.login import ssh_config
from rdtops.ssh.login.fabric_chain import FabricChain
from rdtops.ssh.login.openssh_errors import unfit_python
from rdtops.ssh.login.openssh_master import OpenSshMaster
from rdtops.ssh.stream import Stream
from rdtops.ssh.transport import Ask

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else its thread prints tracebacks of handled errors

_CLOCK = re.compile(r"\d{9,10}(\.\d+)?")
BLAME_S = 5.0  # for each hop, to find the one that does not answer
SILENCE_S = 60.0  # a transfer that moves no byte for so long is dead
ANSWER_BYTES = 1 << 25  # of a host program: a thousand runs with the ends of their logs are 10 MB


@dataclass(frozen=True)
class Result:
    """The output and exit code of a command."""

    command: str
    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0


class CallAnswer(dict[str, Any]):
    """The answer of a host program. A missing key raises CommandFailed, which names the host."""

    who = ""

    @classmethod
    def of(cls, who: str, value: object) -> CallAnswer:
        if not isinstance(value, dict):
            raise CommandFailed(f"{who} is not a JSON object")
        answer = cls(value)
        answer.who = who
        return answer

    def __missing__(self, word: str) -> Any:
        raise CommandFailed(f"{self.who} has no {word!r}")


class Connection:
    """An SSH connection, opened when first used and shared by one command line. Use it as a context manager.

    `ask(question, echo)` asks the person at the terminal where keys are not enough, once for a connection.
    """

    def __init__(self, host: Host, ask: Ask | None = None) -> None:
        self.host = host
        self.sessions = Sessions(host)
        self._ask = ask
        self._link: FabricChain | OpenSshMaster = FabricChain(host, ask)  # not open yet
        self._blaming = threading.Lock()  # held while the failed hop is searched
        self._opening = threading.Lock()  # checks and a transfer's pings use one connection side by side
        self.was_open = False
        self._home = ""
        self._ahead_s = 0.0
        self._last_loss: ConnectionLost | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def open(self) -> Connection:
        """Log in hop by hop. Raise a HostError that names the hop which refused."""
        with self._opening:
            if not self.alive:
                self._log_in()
        return self

    def _log_in(self) -> None:
        self.close()
        if self.host.problem:
            raise ConfigError(self.host.problem, remedy=f"inv hosts --host {self.host.name}")
        call_log.note(self.host.name, "login")
        self._link = self._logged_in()
        self.was_open = True
        self._last_loss = None

    def _logged_in(self) -> FabricChain | OpenSshMaster:
        """Log in by the host's transport; by OpenSSH where Fabric is refused and the ssh_config has another way."""
        if ssh_config.transport(self.host) == OPENSSH:
            return _opened(OpenSshMaster(self.host, self._ask))
        try:
            return _opened(FabricChain(self.host, self._ask))
        except (AuthenticationFailed, Incompatible) as refused:
            has_other_way = isinstance(refused, Incompatible) or ssh_config.may_let_in(self.host)
            if self.host.transport == FABRIC or not has_other_way or not ssh_config.is_installed():
                raise
            try:
                link = _opened(OpenSshMaster(replace(self.host, transport=OPENSSH), self._ask))
            except RdtopsError:
                raise refused from None
            self.host = link.host  # what else logs in does it the same way
            return link

    @property
    def logs_in_alone(self) -> bool:
        """Whether one more login needs no person: no hop required more than a key."""
        return not self._link.asked

    @property
    def alive(self) -> bool:
        return self._link.alive

    def close(self) -> None:
        self._link.close()

    @property
    def home(self) -> str:
        """The home directory on the host."""
        if not self._home:
            begun_s = time.time()
            out, _, clock = self.run_shell('printf "%s\\n" "$HOME"; date +%s.%N').out.rstrip("\n").rpartition("\n")
            if not out.startswith("/"):
                raise RemoteError(f"{self.host.name}: $HOME is {out[:200]!r}, not an absolute path",
                                  remedy=f"on {self.host.name}: look for what changes HOME in the start-up files of "
                                  "the shell")
            if match := _CLOCK.match(clock):  # BusyBox prints no fraction
                self._ahead_s = float(match[0]) - (begun_s + time.time()) / 2
            self._home = out
        return self._home

    def now_s(self) -> float:
        """Return the time of the host's clock, which orders its runs whatever laptop launches them; the laptop's time
        where the host did not tell its own."""
        return time.time() + (self._ahead_s if self.home else 0.0)

    def absolute(self, path: str) -> str:
        """Return a path of hosts.toml as an absolute path on the host; ~ is the home on the host."""
        if path == "~" or path.startswith("~/"):
            return self.home + path[1:]
        return path if path.startswith("/") else f"{self.home}/{path}"

    def short(self, path: str) -> str:
        """Return a path on the host as a person would type it, with ~ for the home."""
        return "~" + path[len(self.home):] if path.startswith(self.home + "/") else path

    @property
    def workspace(self) -> str:
        return self.absolute(self.host.workspace)

    def run(self, command: Command, *, timeout_s: float = 30.0, check: bool = True, stdin: bytes = b"") -> Result:
        """Run a command to its end. Raise CommandFailed (when check), CommandTimeout or ConnectionLost."""
        return self.run_shell(command.shell(), timeout_s=timeout_s, check=check, stdin=stdin)

    def run_shell(self, line: str, *, timeout_s: float = 30.0, check: bool = True, stdin: bytes = b"") -> Result:
        """Run a line of sh, whatever the login shell is. Put words that vary into a Command or through quoted().
        Raise CommandFailed for more than OUTPUT_BYTES of output."""
        with self.stream(line, silence_s=timeout_s, has_input=bool(stdin)) as stream:
            out, err = stream.finish(stdin, timeout_s)
            result = Result(line, stream.code(), out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
        return self._checked(result, check)

    def _checked(self, result: Result, check: bool) -> Result:
        if check and not result.ok:
            output = (result.err.strip() or result.out.strip() or "(no output)")[-600:]
            raise CommandFailed(f"{self.host.name}: exit {result.code} from: {result.command[:200]}\n{output}",
                                remedy=login_shell.process_remedy(self.host, output))
        return result

    def call(self, program: ModuleType, request: dict[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Send a host program, give it one JSON line, and read the one JSON object that it answers. Raise
        CommandFailed for anything else."""
        with self.far(program, request, silence_s=timeout_s) as stream:
            out, err = stream.finish(b"", timeout_s, ANSWER_BYTES)
            code = stream.code()
        try:
            return CallAnswer.of(f"{self.host.name}: the answer of {_name(program)}", loads(out))
        except ValueError as error:
            said = err[-600:].decode("utf-8", "replace").strip()
            why = _cause(said) or (error if out.strip() else "no output")
            raise unfit_python(self.host, code, said) or CommandFailed(
                f"{self.host.name}: {_name(program)} ended with exit code {code}: {why}",
                remedy=login_shell.process_remedy(self.host, said)) from None

    def far(self, program: ModuleType, request: dict[str, Any], *, silence_s: float = SILENCE_S,
            wait: bool = True) -> Stream:
        """Start a host program and leave its stdin and stdout open. `wait`: as in stream."""
        stream = self.stream(bundle.line(self.host.python), silence_s=silence_s, wait=wait)
        stream.runs = _name(program)
        stream.write(bundle.packed_request(program, request))
        return stream

    def stream(self, line: str, *, silence_s: float = SILENCE_S, wait: bool = True, has_input: bool = True) -> Stream:
        """Start a line of sh and leave its pipes open. Where sshd allows no more sessions, wait for one; without `wait`
        raise SessionRefused at once. A line that is given no input need not wait for it, a round trip."""
        self.open()
        call_log.note(self.host.name, line)
        sent = for_the_host(line, has_input=has_input)
        channel = self.sessions.opened(lambda: self._session(sent, silence_s), wait)
        return Stream(self, channel, line, silence_s, has_input=has_input)

    def _session(self, line: str, silence_s: float) -> paramiko.Channel | None:
        """Start a line in a session of its own; None where sshd refuses one."""
        with self._bounded(self.host.connect_timeout_s + 1, "start a command"):
            return self._link.session(line, self.host.connect_timeout_s, silence_s)

    @contextlib.contextmanager
    def terminal(self, line: str) -> Iterator[list[str]]:
        """Give the command of this laptop that runs a line in a terminal on the host."""
        self.open()
        with self._link.terminal(for_a_terminal(line)) as command:
            yield command

    def ping(self, timeout_s: float = 5.0) -> float:
        """Return the seconds of one round trip to the host. Raise ConnectionLost that names the first hop that does not
        answer."""
        self.open()
        with self._blaming:
            round_trip_s = 0.0
            for hop, silence, seconds in self._link.silences(timeout_s):
                if silence:
                    raise self._blamed(hop, silence, timeout_s)
                round_trip_s = seconds
            if not self._link.alive:  # another thread found it lost
                raise self._last_loss or exceptions.lost(self.host, "the connection was closed")
            return round_trip_s

    def lost(self, why: str) -> ConnectionLost:
        """Return the error for a connection that is lost; it names the first hop that failed, if there is one, and
        gives `why` otherwise. All users of the same connection get the same error, at once."""
        with self._blaming:
            if not self._link.alive and self._last_loss:
                return self._last_loss
            for hop, silence, _ in self._link.silences(BLAME_S):
                if silence:
                    return self._blamed(hop, silence, BLAME_S)
            return exceptions.lost(self.host, why)

    def _blamed(self, hop: Hop, silence: str, patience_s: float) -> ConnectionLost:
        """Close the connection and return its error. Name an earlier hop instead of `hop` if that one has failed since
        it was asked: nothing behind it can answer."""
        if hop is not self.host.route[0]:
            for before, earlier, _ in self._link.silences(patience_s):
                if before is hop:
                    break
                if earlier:
                    hop, silence = before, earlier
                    break
        self._last_loss = exceptions.lost(self.host, silence, hop)
        self.close()
        return self._last_loss

    @contextlib.contextmanager
    def _bounded(self, seconds: float, what: str) -> Iterator[None]:
        """Close the whole chain when the body takes longer, and raise its exceptions as ConnectionLost."""
        over = threading.Event()
        late: list[ConnectionLost] = []

        def give_up() -> None:
            error = self.lost(f"could not {what} within {seconds:g} s")
            if not over.is_set():
                late.append(error)
                self.close()

        watchdog = threading.Timer(seconds, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError) as error:
            named = late[0] if late else self.lost(f"could not {what}: {error or type(error).__name__}")
            self.close()
            raise named from error
        finally:
            over.set()
            watchdog.cancel()
        if late:
            raise late[0]


def _cause(errors: str) -> str:
    """Return the errors of a host program; of a traceback the exception."""
    return errors.splitlines()[-1] if "Traceback (most" in errors or '  File "' in errors else errors


def _name(program: ModuleType) -> str:
    return f"the {program.__name__.rpartition('.')[2]} program"


def _opened(link: FabricChain | OpenSshMaster) -> FabricChain | OpenSshMaster:
    link.open()
    return link
