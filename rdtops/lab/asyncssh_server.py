"""Lab server without OpenSSH: `python -m rdtops.lab.asyncssh_server server.json`.

The jump host forwards and nothing else, unless its door says otherwise; a GPU host accepts connections from the jump
host only and offers what sshd does: commands, terminals, SFTP and forwarding.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import signal
import socket
import struct
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_CONNECT_FAILED
from asyncssh.forward import SSHForwarder

from rdtops.lab import connections, entry_words
from rdtops.lab.server import ADDRESS, Server

_BLOCK_BYTES = 1 << 18
_logger = logging.getLogger("server")


def begun(config: str) -> Server:
    """Return the server of a configuration, with this process prepared to be it."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    os.environ.pop("PYTHONPATH", None)
    return Server.load(config)


def main(config: str) -> None:
    server = begun(config)
    if server.gives_sessions:
        os.chdir(server.home)  # relative SFTP paths begin here
    sessions = {"process_factory": partial(_run, server), "sftp_factory": _Sftp, "line_editor": False}
    asyncio.run(listen(server, partial(_Policy, server), sessions if server.gives_sessions else {}))


async def listen(server: Server, policy: Callable[[], asyncssh.SSHServer], sessions: Mapping[str, object]) -> None:
    """Serve whoever may connect, until the process ends."""
    loop = asyncio.get_running_loop()
    serving: set[asyncio.Task[None]] = set()
    with socket.create_server((ADDRESS, server.port), backlog=128) as listener:
        listener.setblocking(False)
        while True:
            wire, peer = await loop.sock_accept(listener)
            if server.jump and not connections.comes_from(wire, server.admitted):
                _logger.info("refused port %d: not from the jump host", peer[1])
                wire.close()
                continue
            task = asyncio.create_task(_serve(wire, server, policy, sessions))
            serving.add(task)
            task.add_done_callback(serving.discard)


async def _serve(wire: socket.socket, server: Server, policy: Callable[[], asyncssh.SSHServer],
                 sessions: Mapping[str, object]) -> None:
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(asyncssh.Error, OSError):  # asyncssh has logged it
        await asyncssh.run_server(wire, server_factory=policy, agent_forwarding=False, encoding=None,
                                  server_host_keys=[str(server.host_key)], **sessions)


class _Policy(asyncssh.SSHServer):  # type: ignore[misc]  # mypy skips asyncssh
    """The policy: who may log in, and what may be forwarded."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if username == self._server.environment["USER"] and not self._server.words:
            self._connection.set_authorized_keys(str(self._server.authorized_keys))
        return True  # no key matches any other name

    def password_auth_supported(self) -> bool:
        return self._server.door == "password"

    def validate_password(self, username: str, password: str) -> bool:
        return self._is_right(username, password)

    def kbdint_auth_supported(self) -> bool:
        return self._server.door == "code"

    def get_kbdint_challenge(self, *_: str) -> tuple[str, str, str, list[tuple[str, bool]]]:
        return "", "", "", [("Verification code: ", False)]

    def validate_kbdint_response(self, username: str, responses: list[str]) -> bool:
        return len(responses) == 1 and self._is_right(username, responses[0])

    def _is_right(self, username: str, word: str) -> bool:
        words = self._server.words
        return words is not None and username == self._server.environment["USER"] and entry_words.is_right(words, word)

    def connection_requested(self, dest_host: str, dest_port: int, *_: object) -> Awaitable[SSHForwarder]:
        allowed = self._server.targets.values()
        if allowed and (dest_host not in (ADDRESS, "localhost") or dest_port not in allowed):
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "Connection refused")
        if self._server.door == "noforward":
            raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")
        return _Forwarder.to(dest_host, dest_port)


class _Forwarder(SSHForwarder):  # type: ignore[misc]
    """A forwarded connection. asyncssh's own one stays half open when the service closes before the client."""

    @classmethod
    async def to(cls, host: str, port: int) -> _Forwarder:
        try:
            _, peer = await asyncio.get_running_loop().create_connection(SSHForwarder, host, port)
        except OSError as error:
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, str(error)) from error
        return cls(peer)

    def eof_received(self) -> bool:
        service_goes_on = bool(super().eof_received())
        if not service_goes_on:
            self.close()
        return service_goes_on


class _Sftp(asyncssh.SFTPServer):  # type: ignore[misc]
    def exit(self) -> None:
        self.channel.exit(0)  # sftp and scp take a channel closed without a status for a failure


async def _run(server: Server, process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run one session: a command or a shell, until it has ended and its output is delivered, or the client is gone."""
    kind = _Pipes if process.get_terminal_type() is None else _Terminal
    child = await kind.start(server, process)
    feeding = asyncio.create_task(_feed(process, child))
    delivering = asyncio.create_task(child.deliver(process))
    gone = asyncio.create_task(process.channel.wait_closed())
    await asyncio.wait({delivering, gone}, return_when=asyncio.FIRST_COMPLETED)
    for task in (feeding, delivering, gone):
        task.cancel()
    await asyncio.gather(feeding, delivering, gone, return_exceptions=True)
    child.close()
    if not process.channel.is_closing():
        _report(process, await child.process.wait())


async def _feed(process: asyncssh.SSHServerProcess[bytes], child: _Child) -> None:
    """Forward what the client sends: input, its end, signals, a new window size."""
    while True:
        try:
            content = await process.stdin.read(_BLOCK_BYTES)
        except asyncssh.TerminalSizeChanged as change:
            child.resize(change.height, change.width)
        except asyncssh.SignalReceived as received:
            _signal(child.process, received.signal)
        except asyncssh.BreakReceived:
            continue
        else:
            if not content:
                return child.end_input()
            try:
                await child.write(content)
            except OSError:  # the child no longer reads; further input is dropped, as with a closed pipe
                continue


@dataclass(frozen=True)
class _Source:
    """A pipe or terminal that we read."""

    reader: asyncio.StreamReader
    transport: asyncio.ReadTransport

    @classmethod
    async def of(cls, descriptor: int) -> _Source:
        reader = asyncio.StreamReader(limit=_BLOCK_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0))
        return cls(reader, transport)

    async def copy_to(self, target: asyncssh.SSHWriter[bytes]) -> None:
        """Copy everything, until the last writer has closed its end."""
        with suppress(OSError):  # EIO: a terminal whose last process ended
            while content := await self.reader.read(_BLOCK_BYTES):
                target.write(content)
                await target.drain()


class _Child(Protocol):
    """The process of a session, and our ends of its pipes or its terminal."""

    @property
    def process(self) -> asyncio.subprocess.Process: ...
    def resize(self, rows: int, columns: int) -> None: ...
    async def write(self, content: bytes) -> None: ...
    def end_input(self) -> None: ...
    async def deliver(self, session: asyncssh.SSHServerProcess[bytes]) -> None: ...
    def close(self) -> None: ...  # a process that outlives its client gets SIGPIPE or SIGHUP


@dataclass(frozen=True)
class _Pipes:
    process: asyncio.subprocess.Process
    output: _Source
    errors: _Source

    @classmethod
    async def start(cls, server: Server, session: asyncssh.SSHServerProcess[bytes]) -> _Pipes:
        (output, output_end), (errors, errors_end) = os.pipe(), os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_argv(server, session), stdin=asyncio.subprocess.PIPE, stdout=output_end, stderr=errors_end,
                start_new_session=True, cwd=server.home, env=_environment(server, session))
        finally:
            os.close(output_end)
            os.close(errors_end)
        return cls(process, await _Source.of(output), await _Source.of(errors))

    def resize(self, rows: int, columns: int) -> None:
        """Do nothing: pipes have no size."""

    async def write(self, content: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(content)
        await self.process.stdin.drain()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def deliver(self, session: asyncssh.SSHServerProcess[bytes]) -> None:
        # redirect() of asyncssh would end both when the first one ends
        await asyncio.gather(self.output.copy_to(session.stdout), self.errors.copy_to(session.stderr))

    def close(self) -> None:
        self.end_input()
        self.output.transport.close()
        self.errors.transport.close()


@dataclass(frozen=True)
class _Terminal:
    process: asyncio.subprocess.Process
    master: int
    output: _Source

    @classmethod
    async def start(cls, server: Server, session: asyncssh.SSHServerProcess[bytes]) -> _Terminal:
        master, slave = os.openpty()
        columns, rows, _, _ = session.get_terminal_size()
        _set_size(master, rows, columns)
        environment = {**_environment(server, session), "TERM": session.get_terminal_type() or "dumb",
                       "SSH_TTY": os.ttyname(slave)}
        try:
            process = await asyncio.create_subprocess_exec(
                *_argv(server, session), stdin=slave, stdout=slave, stderr=slave, cwd=server.home, env=environment,
                preexec_fn=partial(os.login_tty, 0))
        finally:
            os.close(slave)
        return cls(process, master, await _Source.of(master))

    def resize(self, rows: int, columns: int) -> None:
        _set_size(self.master, rows, columns)

    async def write(self, content: bytes) -> None:
        await asyncio.to_thread(_write_all, self.master, content)

    def end_input(self) -> None:
        """Do nothing: a terminal has no end of input; the client types ^D."""

    async def deliver(self, session: asyncssh.SSHServerProcess[bytes]) -> None:
        await self.output.copy_to(session.stdout)

    def close(self) -> None:
        self.output.transport.close()


def _argv(server: Server, session: asyncssh.SSHServerProcess[bytes]) -> list[str]:
    shell = server.environment["SHELL"]
    return [shell, "-c", session.command] if session.command else [shell]


def _environment(server: Server, session: asyncssh.SSHServerProcess[bytes]) -> dict[str, str]:
    peer, own = (session.get_extra_info(name) for name in ("peername", "sockname"))
    return {**server.environment, "SSH_CLIENT": f"{peer[0]} {peer[1]} {own[1]}",
            "SSH_CONNECTION": f"{peer[0]} {peer[1]} {own[0]} {own[1]}"}


def _report(process: asyncssh.SSHServerProcess[bytes], returncode: int) -> None:
    if returncode < 0:
        process.exit_with_signal(signal.Signals(-returncode).name.removeprefix("SIG"))
    else:
        process.exit(returncode)


def _set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _signal(process: asyncio.subprocess.Process, name: str) -> None:
    number = getattr(signal, f"SIG{name}", None)
    if number is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        select.select([], [descriptor], [])  # it does not block by itself, since asyncio reads it
        left = left[os.write(descriptor, left):]


if __name__ == "__main__":
    main(sys.argv[1])
