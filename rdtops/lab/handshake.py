"""SSH handshake along a route, with a time limit for every step: it shows that a server of the lab works."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko

from rdtops.errors import LabError

STEP_TIMEOUT_S = 5.0
_LOG = "rdtops.lab.handshake"
logging.getLogger(_LOG).addHandler(logging.NullHandler())  # otherwise paramiko's tracebacks reach the terminal


class NotYet(LabError):
    """No answer, or an incomplete one: the server is starting, frozen or gone."""


@dataclass(frozen=True)
class HandshakeHop:
    name: str
    address: str
    port: int
    user: str
    identity_file: Path
    known_hosts: Path


class _Transport(paramiko.Transport):  # type: ignore[misc]  # paramiko has no types
    """A transport whose thread ends silently when the connection below it closes first."""

    def run(self) -> None:
        with suppress(EOFError, OSError, paramiko.SSHException):
            super().run()


def greet(route: Sequence[HandshakeHop], *, any_host_key: bool = False) -> None:
    """Log in hop by hop, and open a session on the last if it is behind a jump host. Raise NotYet, or LabError when a
    key is refused, so that trying again cannot help."""
    with ExitStack() as stack:
        try:
            wire: socket.socket | paramiko.Channel = stack.enter_context(
                socket.create_connection((route[0].address, route[0].port), STEP_TIMEOUT_S))
            for hop, following in zip(route, (*route[1:], None), strict=True):
                transport = _log_in(hop, wire, stack, any_host_key)
                if following:
                    wire = transport.open_channel("direct-tcpip", (following.address, following.port),
                                                  (hop.address, 0), timeout=STEP_TIMEOUT_S)
            if len(route) > 1:
                transport.open_session(timeout=STEP_TIMEOUT_S).close()
        except (paramiko.BadHostKeyException, paramiko.AuthenticationException) as error:
            raise LabError(f"{hop.name}: {error}") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise NotYet(f"no answer ({error or type(error).__name__})") from error


def knock(hop: HandshakeHop, *, is_behind: bool) -> None:
    """See that a server is there without a login, where a login takes a person: the jump host greets, a host behind it
    closes the connection of anybody else. Raise NotYet."""
    try:
        with socket.create_connection((hop.address, hop.port), STEP_TIMEOUT_S) as wire:
            greeting = wire.recv(4)
    except OSError as error:
        raise NotYet(f"no answer ({error})") from error
    if greeting != (b"" if is_behind else b"SSH-"):
        raise NotYet(f"it answers with {greeting!r}")


def _log_in(hop: HandshakeHop, wire: socket.socket | paramiko.Channel, stack: ExitStack,
            any_host_key: bool) -> paramiko.Transport:
    client = paramiko.SSHClient()
    stack.callback(client.close)
    client.set_log_channel(_LOG)
    if any_host_key:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507  # our server, with a new key
    else:
        client.load_host_keys(str(hop.known_hosts))
    client.connect(hop.address, hop.port, hop.user, sock=wire, key_filename=str(hop.identity_file), allow_agent=False,
                   look_for_keys=False, timeout=STEP_TIMEOUT_S, banner_timeout=STEP_TIMEOUT_S,
                   auth_timeout=STEP_TIMEOUT_S, channel_timeout=STEP_TIMEOUT_S, transport_factory=_Transport)
    transport = client.get_transport()
    assert transport is not None
    return transport
