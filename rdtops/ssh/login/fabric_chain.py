"""Fabric chain: a Fabric connection to each hop of a route, through the one before it, host keys checked on every hop.

The key policy and the order of the keys are ours: Fabric accepts unknown and changed host keys silently, and offers
every key of the agent first.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fabric
import paramiko

from rdtops.errors import Unreachable
from rdtops.hostlib.names import quoted
from rdtops.ssh import exceptions
from rdtops.ssh.channels import login_shell
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.login.identities import Login
from rdtops.ssh.login.known_hosts import CHANGED, IS_REVOKED, KNOWN, KnownHosts
from rdtops.ssh.login.questions import PERSON_S
from rdtops.ssh.login.relay import relay_command
from rdtops.ssh.openssh_config import configured, destination
from rdtops.ssh.transport import Ask, bounded

_REFUSED = "Unable to open channel."  # paramiko's word, where several were refused at once
KEEPALIVE_S = 15
RELAY_ENDS_S = 1.0  # after a login over it has failed
LOGINS = 8  # at a time at one jump; OpenSSH drops some at random beyond 10 (MaxStartups), and others log in as well


class FabricChain:
    """The Fabric connections of a route, outermost first."""

    def __init__(self, host: Host, ask: Ask | None) -> None:
        self.host = host
        self.links: list[fabric.Connection] = []
        self.asked = False  # a person, for anything
        self._ask = ask and functools.partial(self._asked, ask)

    def open(self) -> None:
        """Log in hop by hop. Raise a HostError that names the hop which refused."""
        before: Hop | None = None
        for hop in self.host.route:
            self.log_in(hop, before)
            before = hop

    def log_in(self, hop: Hop, before: Hop | None) -> None:
        """Log in to the next hop. Raise a HostError that says why not."""
        way = None
        try:
            with _turn(hop, self.host):
                way = way_to(hop, before, self.last)
                link = _link(hop, way, self._ask)
                link.open()
        except Exception as error:  # paramiko raises many types; refusal() maps each of them
            said = _said_by_relay(way) if before and before.relay else ""
            self.close()
            if before and said:
                raise Unreachable(f"the relay on {before.name} ({before.where}) cannot reach {hop.name} ({hop.where}), "
                                  f"on the route {self.host.route_words}: {said}",
                                  remedy=f"check the address of {hop.name}; on {before.name} it needs python3, nc or "
                                         "socat") from None
            raise exceptions.refusal(error, hop, self.host, before) from error
        link.client.get_transport().set_keepalive(KEEPALIVE_S)
        self.links.append(link)

    @property
    def last(self) -> fabric.Connection | None:
        return self.links[-1] if self.links else None

    def _asked(self, ask: Ask, question: str, echo: bool) -> str:
        self.asked = True
        return ask(question, echo)

    @property
    def alive(self) -> bool:
        return bool(self.links) and all(link.is_connected for link in self.links)

    def session(self, command: str, timeout_s: float, silence_s: float) -> paramiko.Channel | None:
        """Give a command to the host's login shell; return the channel of its pipes, None where sshd refuses one."""
        transport = self.links[-1].client.get_transport()
        try:
            channel = transport.open_session(window_size=1 << 25, timeout=timeout_s)
        except paramiko.SSHException as error:
            if transport.is_active() and (isinstance(error, paramiko.ChannelException) or str(error) == _REFUSED):
                return None
            raise
        channel.settimeout(silence_s)
        try:
            channel.exec_command(command)
        except paramiko.SSHException:
            if transport.is_active() and channel.closed:  # of a gateway with a menu, or of sftp alone
                received = channel.recv(login_shell.NOISE_BYTES), channel.recv_stderr(login_shell.NOISE_BYTES)
                raise login_shell.unheard(self.host, "it refuses commands", *received) from None
            raise
        return channel

    @contextlib.contextmanager
    def terminal(self, line: str) -> Iterator[list[str]]:
        """Give an `ssh` that logs in by itself the same way: paramiko has no terminal."""
        with configured(self.host, batch=False) as folder:
            yield ["ssh", "-F", str(Path(folder) / "config"), "-o", "LogLevel=ERROR", "-t", destination(self.host),
                   line]

    def silences(self, patience_s: float) -> Iterator[tuple[Hop, str, float]]:
        """Ask each hop for a sign of life, outermost first; yield it with why it does not work, or '', and the seconds
        that it took."""
        for link, hop in zip(list(self.links), self.host.route, strict=False):
            start_s = time.monotonic()
            silence = exceptions.silence(link, hop, patience_s)
            yield hop, silence, time.monotonic() - start_s

    def close(self) -> None:
        """Close the outermost socket first: an inner transport may be blocked in a write to the outer one."""
        links, self.links = self.links, []
        transports = [link.client.get_transport() for link in links]
        with contextlib.suppress(Exception):  # close it in whatever state it is
            if transports and transports[0]:
                transports[0].sock.close()
        for transport in transports:
            with contextlib.suppress(Exception):
                if transport:
                    transport.close()


def way_to(hop: Hop, before: Hop | None, through: fabric.Connection | None) -> Any:
    """Return a socket to a hop: forwarded by the hop before it, or carried by a relay there. None: directly."""
    if before is None or through is None:
        return None
    transport = through.client.get_transport()
    if not before.relay:
        return transport.open_channel("direct-tcpip", (hop.address, hop.port), ("", 0), timeout=hop.connect_timeout_s)
    channel = transport.open_session(timeout=hop.connect_timeout_s)
    channel.exec_command(relay_command(hop))
    return channel


def _said_by_relay(way: Any) -> str:
    """Return the last line of a relay's stderr; '' where it runs, or was not started."""
    if way is None or not way.status_event.wait(RELAY_ENDS_S):
        return ""
    lines = way.recv_stderr(1 << 16).decode("utf-8", "replace").strip().splitlines() if way.recv_stderr_ready() else []
    return quoted(lines[-1], 200) if lines else ""


def host_key(hop: Hop, way: Any, timeout_s: float = 20.0) -> paramiko.PKey:
    """Return the host key of a hop, without logging in to it. Only `inv trust` calls it."""
    sock = way or socket.create_connection((hop.address, hop.port), timeout=timeout_s)
    transport = bounded(KnownHosts(hop).kinds, sock)
    try:
        transport.start_client(timeout=timeout_s)
        return transport.get_remote_server_key()
    finally:
        transport.close()


def _link(hop: Hop, way: Any, ask: Ask | None) -> fabric.Connection:
    """Return a Fabric connection of one hop, not opened, that trusts only the keys of its known_hosts files."""
    known = KnownHosts(hop)
    settings: dict[str, Any] = {
        "banner_timeout": hop.connect_timeout_s, "auth_timeout": PERSON_S if ask else hop.connect_timeout_s,
        "channel_timeout": hop.connect_timeout_s, "transport_factory": functools.partial(bounded, known.kinds),
        "auth_strategy": Login(hop, _about(hop, ask)), "sock": way}
    config = fabric.Config(overrides={"load_ssh_configs": False})
    link = fabric.Connection(hop.address, user=hop.user, port=hop.port, config=config,
                             connect_timeout=hop.connect_timeout_s, connect_kwargs=settings)
    link.client.set_missing_host_key_policy(KnownKeysOnly(known))
    return link


class KnownKeysOnly(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """Judge each host key by the known_hosts files; paramiko itself is given none."""

    def __init__(self, known: KnownHosts) -> None:
        self._known = known

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        verdict = self._known.verdict(key.get_name(), key.asbytes())
        if verdict != KNOWN:
            raise exceptions.KeyRefused(verdict if verdict in (CHANGED, IS_REVOKED) else "not known")


def _turn(hop: Hop, host: Host) -> contextlib.AbstractContextManager[object]:
    """Limit the logins at one jump at a time to LOGINS: many hosts may lie behind it. A host itself has no limit."""
    if hop is host:
        return contextlib.nullcontext()
    return _turns.setdefault(hop.where, threading.Semaphore(LOGINS))


_turns: dict[str, threading.Semaphore] = {}


def _about(hop: Hop, ask: Ask | None) -> Ask | None:
    """Return `ask` with the hop's name before each question."""
    return None if ask is None else lambda text, echo: ask(f"{hop.name} ({hop.where}): {text}", echo)
