"""Connection: an authenticated SSH connection to a host through its jump hosts, host keys checked on every hop.

Fabric builds the chain; the key policy is ours, because Fabric accepts unknown and changed keys silently. Every remote
call has a time limit: paramiko waits for ever on a frozen peer, so a watchdog closes the whole chain at the limit.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import fabric
import paramiko

from rdtops.errors import CommandFailed, ConnectionLost, RemoteError
from rdtops.hostlib.fields import loads
from rdtops.ssh import bundle, call_log, exceptions
from rdtops.ssh.channels import login_shell
from rdtops.ssh.channels.max_sessions import Sessions
from rdtops.ssh.command import Command, for_the_host
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.stream import Stream
from rdtops.ssh.transport import Ask, bounded

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else its thread prints tracebacks of handled errors

_CLOCK = re.compile(r"\d{9,10}(\.\d+)?")
_REFUSED = "Unable to open channel."  # paramiko's word, where several were refused at once
BLAME_S = 5.0  # for each hop, to find the one that does not answer
KEEPALIVE_S = 15
PERSON_S = 120.0  # for a person to type a one-time code
LOGINS = 8  # at a time at one jump; OpenSSH drops some at random beyond 10 (MaxStartups), and others log in as well
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

    `ask(question, echo)` asks the person at the terminal where a hop requires a code beside the key, once for a
    connection.
    """

    def __init__(self, host: Host, ask: Ask | None = None) -> None:
        self.host = host
        self.sessions = Sessions(host)
        self._ask = ask and functools.partial(self._asked, ask)
        self._was_asked = False
        self._chain: list[fabric.Connection] = []
        self._blaming = threading.Lock()  # held while the failed hop is searched
        self._opening = threading.Lock()  # checks and a transfer's pings use one connection side by side
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
        call_log.note(self.host.name, "login")
        for hop in self.host.route:
            link = _link(hop, self._chain[-1] if self._chain else None, self._ask)
            try:
                with _turn(hop, self.host):
                    link.open()
            except Exception as error:  # paramiko raises many types; refusal() maps each of them
                self.close()
                raise exceptions.refusal(error, hop, self.host) from error
            transport = link.client.get_transport()
            transport.set_keepalive(KEEPALIVE_S)
            self._chain.append(link)
        self._last_loss = None

    @property
    def logs_in_alone(self) -> bool:
        """Whether one more login needs no person: no hop required a code beside the key."""
        return not self._was_asked

    def _asked(self, ask: Ask, question: str, echo: bool) -> str:
        self._was_asked = True
        return ask(question, echo)

    @property
    def alive(self) -> bool:
        return bool(self._chain) and all(link.is_connected for link in self._chain)

    def close(self) -> None:
        """Close the outermost socket first: an inner transport may be blocked in a write to the outer one."""
        chain, self._chain = self._chain, []
        transports = [link.client.get_transport() for link in chain]
        with contextlib.suppress(Exception):  # close it in whatever state it is
            if transports and transports[0]:
                transports[0].sock.close()
        for transport in transports:
            with contextlib.suppress(Exception):
                if transport:
                    transport.close()

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
            errors = err[-600:].decode("utf-8", "replace").strip()
            why = _cause(errors) or (error if out.strip() else "no output")
            raise CommandFailed(f"{self.host.name}: {_name(program)} ended with exit code {code}: {why}",
                                remedy=login_shell.process_remedy(self.host, errors)) from None

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
            transport = self._chain[-1].client.get_transport()
            try:
                channel = transport.open_session(window_size=1 << 25, timeout=self.host.connect_timeout_s)
            except paramiko.SSHException as error:
                if transport.is_active() and (isinstance(error, paramiko.ChannelException) or str(error) == _REFUSED):
                    return None
                raise
            channel.settimeout(silence_s)
            try:
                channel.exec_command(line)
            except paramiko.SSHException:
                if transport.is_active() and channel.closed:  # of a gateway with a menu, or of sftp alone
                    raise login_shell.unheard(self.host, "it refuses commands", *_received(channel)) from None
                raise
        return channel

    def ping(self, timeout_s: float = 5.0) -> float:
        """Return the seconds of one round trip to the host. Raise ConnectionLost that names the first hop that does not
        answer."""
        self.open()
        with self._blaming:
            seconds = 0.0
            for link, hop in zip(list(self._chain), self.host.route, strict=False):
                start = time.monotonic()
                if silence := exceptions.silence(link, hop, timeout_s):
                    raise self._blamed(hop, silence, timeout_s)
                seconds = time.monotonic() - start
            if not self._chain:  # another thread found it lost
                raise self._last_loss or exceptions.lost(self.host, "the connection was closed")
            return seconds

    def lost(self, why: str) -> ConnectionLost:
        """Return the error for a connection that is lost; it names the first hop that failed, if there is one, and
        gives `why` otherwise. All users of the same connection get the same error, at once."""
        with self._blaming:
            if not self._chain and self._last_loss:
                return self._last_loss
            for link, hop in zip(list(self._chain), self.host.route, strict=False):
                if silence := exceptions.silence(link, hop, BLAME_S):
                    return self._blamed(hop, silence, BLAME_S)
            return exceptions.lost(self.host, why)

    def _blamed(self, hop: Hop, silence: str, patience_s: float) -> ConnectionLost:
        """Close the connection and return its error. Name an earlier hop instead of `hop` if that one has failed since
        it was asked: nothing behind it can answer."""
        for link, before in zip(list(self._chain), self.host.route, strict=False):
            if before is hop:
                break
            if earlier := exceptions.silence(link, before, patience_s):
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


def _received(channel: paramiko.Channel) -> tuple[bytes, bytes]:
    """Return what a closed channel brought on stdout and stderr."""
    return channel.recv(login_shell.NOISE_BYTES), channel.recv_stderr(login_shell.NOISE_BYTES)


def _name(program: ModuleType) -> str:
    return f"the {program.__name__.rpartition('.')[2]} program"


def host_key(hop: Hop, through: fabric.Connection | None, timeout_s: float = 20.0) -> paramiko.PKey:
    """Return the host key of a hop, without logging in to it. Only `inv trust` calls it."""
    if through is None:
        sock: Any = socket.create_connection((hop.address, hop.port), timeout=timeout_s)
    else:
        sock = through.client.get_transport().open_channel("direct-tcpip", (hop.address, hop.port), ("", 0),
                                                           timeout=timeout_s)
    transport = bounded(None, sock)
    try:
        transport.start_client(timeout=timeout_s)
        return transport.get_remote_server_key()
    finally:
        transport.close()


def keys_of(host: Host, ask: Ask | None = None) -> Iterator[tuple[Hop, paramiko.PKey]]:
    """Yield the key of every hop in order. A hop can be reached only when the hops before it are trusted, so the
    caller must record each key before it takes the next."""
    chain: list[fabric.Connection] = []
    try:
        for hop in host.route:
            through = chain[-1] if chain else None
            try:
                yield hop, host_key(hop, through, hop.connect_timeout_s)
                if hop is not host.route[-1]:
                    chain.append(_link(hop, through, ask))
                    chain[-1].open()
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise exceptions.refusal(error, hop, host) from error
    finally:
        for link in reversed(chain):
            link.close()


def _turn(hop: Hop, host: Host) -> contextlib.AbstractContextManager[object]:
    """Limit the logins at one jump at a time to LOGINS: many hosts may lie behind it. A host itself has no limit."""
    if hop is host:
        return contextlib.nullcontext()
    return _turns.setdefault(hop.where, threading.Semaphore(LOGINS))


_turns: dict[str, threading.Semaphore] = {}


def _link(hop: Hop, through: fabric.Connection | None, ask: Ask | None = None) -> fabric.Connection:
    """Return a Fabric connection of one hop, not opened, that trusts only the keys of hop.known_hosts."""
    patience_s = PERSON_S if ask else hop.connect_timeout_s
    settings: dict[str, Any] = {"banner_timeout": hop.connect_timeout_s, "auth_timeout": patience_s,
                                "channel_timeout": hop.connect_timeout_s,
                                "transport_factory": functools.partial(bounded, _about(hop, ask))}
    if hop.identity_file:
        settings |= {"key_filename": [hop.identity_file], "look_for_keys": False}
    config = fabric.Config(overrides={"load_ssh_configs": False})
    link = fabric.Connection(hop.address, user=hop.user, port=hop.port, gateway=through, config=config,
                             connect_timeout=hop.connect_timeout_s, connect_kwargs=settings)
    link.client.set_missing_host_key_policy(paramiko.RejectPolicy())
    known_hosts = Path(hop.known_hosts).expanduser()
    if known_hosts.exists():
        link.client.load_host_keys(str(known_hosts))
    return link


def _about(hop: Hop, ask: Ask | None) -> Ask | None:
    """Return `ask` with the hop's name before each question."""
    return None if ask is None else lambda text, echo: ask(f"{hop.name} ({hop.where}): {text}", echo)
