"""Obstacle: what is between us and a host, in words: a hop that does not let us in, or one that is silent or gone."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

import fabric
import paramiko

from rdtops.errors import AuthenticationFailed, ConnectionLost, HostError, HostKeyError, Unreachable
from rdtops.ssh.hosts import Hop, Host

_MUTE = ("No existing session", "Error reading SSH protocol banner")  # paramiko's words for one and the same thing
_GONE = re.compile(r"timeout|transport shut down|saw EOF", re.IGNORECASE)  # likewise, within a login


def lost(host: Host, why: str, hop: Hop | None = None) -> ConnectionLost:
    """`hop` is the one to blame, where that is known."""
    error = ConnectionLost(f"lost {host.name} ({host.route_words}): {why}",
                           remedy=f"inv hosts --ping --host {host.name}   # then run the same command again")
    error.hop = hop.name if hop else ""
    return error


def silence(link: fabric.Connection, hop: Hop, patience_s: float) -> str:
    """Why a hop that we are logged in to is to blame; nothing when it answers. paramiko would wait for the answer for
    ever, so somebody else does."""
    transport = link.client.get_transport()

    def ask() -> None:
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.global_request("keepalive@openssh.com", wait=True)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience_s)
    if not transport.is_active():
        return f"{hop.name} has ended the connection"
    return f"could not get an answer of {hop.name} within {patience_s:g} s" if asking.is_alive() else ""


def refusal(error: Exception, hop: Hop, host: Host) -> HostError:
    """What kept us from a hop, in words, with the next command."""
    where = f"{hop.name} ({hop.where}), on the route {host.route_words}"
    trust = f"inv trust --host {host.name}"
    if isinstance(error, paramiko.BadHostKeyException):
        return HostKeyError(f"the host key of {where} has CHANGED: {hop.known_hosts} has another one. Either the "
                            "machine was reinstalled, or somebody is between you and it", remedy=trust)
    if isinstance(error, paramiko.SSHException) and "not found in known_hosts" in str(error):
        return HostKeyError(f"the host key of {where} is not known: {hop.known_hosts} has no entry "
                            f"{hop.known_hosts_entry}", remedy=trust)
    if isinstance(error, paramiko.PasswordRequiredException):
        return AuthenticationFailed(f"the key {hop.identity_file} for {where} has a passphrase",
                                    remedy=f"ssh-add {hop.identity_file}")
    if isinstance(error, FileNotFoundError) and hop.identity_file and not Path(hop.identity_file).exists():
        return AuthenticationFailed(f"there is no key {hop.identity_file} for {where}",
                                    remedy=f"set identity_file of {hop.name} in hosts.toml")
    if isinstance(error, paramiko.AuthenticationException) and _GONE.search(str(error)):
        return Unreachable(f"cannot reach {where}: it stopped answering within the login ({error})",
                           remedy=f"inv hosts --ping --host {host.name}")
    if isinstance(error, paramiko.AuthenticationException):
        if "it asks" in str(error):
            return AuthenticationFailed(f"{where} wants more than a key ({error}), and nobody is at a terminal",
                                        remedy="type the command in a terminal, not in a script")
        return AuthenticationFailed(f"{where} refuses the user {hop.user!r} with "
                                    f"{hop.identity_file or 'the keys of ~/.ssh and the agent'}",
                                    remedy=f"check user and identity_file of {hop.name} in hosts.toml")
    if isinstance(error, socket.gaierror):
        return Unreachable(f"the name {hop.address!r} of {hop.name} cannot be resolved (route {host.route_words})",
                           remedy=f"check address of {hop.name} in hosts.toml")
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        error = next(iter(error.errors.values()))  # its own words are "[Errno None]"
    mute = isinstance(error, paramiko.SSHException) and str(error) in _MUTE
    why = "something accepts the connection and does not answer as an SSH server does" if mute else error
    return Unreachable(f"cannot reach {where}: {why or type(error).__name__}",
                       remedy=f"inv hosts --ping --host {host.name}")
