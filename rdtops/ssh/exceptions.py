"""SSH exceptions: turn the exceptions of paramiko and of sockets into errors that name the hop and the next command."""

from __future__ import annotations

import contextlib
import socket
import threading

import fabric
import paramiko

from rdtops.errors import AuthenticationFailed, ConnectionLost, HostKeyError, Incompatible, RdtopsError, Unreachable
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.login.identities import NO_FILE, LoginRefused
from rdtops.ssh.login.known_hosts import CHANGED, IS_REVOKED, names

_MUTE = ("No existing session", "Error reading SSH protocol banner")  # paramiko's two messages for the same fault
FORBIDDEN = 1  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, RFC 4254


def lost(host: Host, why: str, hop: Hop | None = None) -> ConnectionLost:
    """Return the error for a lost connection. `hop`: the hop that failed, where that is known."""
    error = ConnectionLost(f"lost {host.name} ({host.route_words}): {why}",
                           remedy=f"inv hosts --ping --host {host.name}   # then run the same command again")
    error.hop = hop.name if hop else ""
    return error


def silence(link: fabric.Connection, hop: Hop, patience_s: float) -> str:
    """Return why a hop that we are logged in to does not work; '' when it answers. A thread waits for the answer,
    because paramiko has no time limit."""
    transport = link.client.get_transport()

    def ask() -> None:
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.global_request("keepalive@openssh.com", wait=True)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience_s)
    if not transport.is_active():
        return f"{hop.name} closed the connection"
    return f"no answer from {hop.name} within {patience_s:g} s" if asking.is_alive() else ""


class KeyRefused(paramiko.SSHException):  # type: ignore[misc]  # paramiko has no types
    """The host key of a hop is not to be trusted: it is not known, changed or revoked."""


def refusal(error: Exception, hop: Hop, host: Host, before: Hop | None = None) -> RdtopsError:
    """Return the error that says why a hop refused the login, with the next command. `before`: the jump that leads to
    the hop."""
    if isinstance(error, RdtopsError):
        return error
    where = f"{hop.name} ({hop.where}), on the route {host.route_words}"
    ping = f"inv hosts --ping --host {host.name}"
    if isinstance(error, KeyRefused):
        return _key_refused(error, hop, where, f"inv trust --host {host.name}")
    if isinstance(error, LoginRefused):
        return _login_refused(error, hop, where)
    if isinstance(error, paramiko.ChannelException) and before:
        return _not_forwarded(error, hop, before, host)
    if isinstance(error, paramiko.AuthenticationException):
        return Unreachable(f"cannot reach {where}: it stopped answering during the login ({error})", remedy=ping)
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return Incompatible(f"cannot log in to {where}: it and Fabric have no algorithm in common ({error})",
                            remedy=f"if `ssh` gets in with options of ~/.ssh/config (HostKeyAlgorithms +ssh-rsa), set "
                                   f"ssh_alias of {host.name} in hosts.toml to that Host")
    if isinstance(error, socket.gaierror):
        return Unreachable(f"cannot resolve the address {hop.address!r} of {hop.name} (route {host.route_words})",
                           remedy=f"check address of {hop.name} in hosts.toml, or HostName in ~/.ssh/config")
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        error = next(iter(error.errors.values()))  # its own message is "[Errno None]"
    mute = isinstance(error, paramiko.SSHException) and str(error) in _MUTE
    why = "the port accepts the connection but does not answer as an SSH server" if mute else error
    return Unreachable(f"cannot reach {where}: {str(why) or 'the connection was closed'}", remedy=ping)


def _key_refused(error: KeyRefused, hop: Hop, where: str, trust: str) -> HostKeyError:
    files = " and ".join(hop.known_hosts_files)
    if str(error) == CHANGED:
        return HostKeyError(f"the host key of {where} has CHANGED: {files} has a different key. Either the machine was "
                            "reinstalled, or this is a man-in-the-middle attack", remedy=trust)
    if str(error) == IS_REVOKED:
        return HostKeyError(f"the host key of {where} is revoked (@revoked) in {files}",
                            remedy="ask the administrator of the host for its new key")
    return HostKeyError(f"the host key of {where} is not known: no entry {names(hop)[0]} in {files}", remedy=trust)


def _login_refused(error: LoginRefused, hop: Hop, where: str) -> AuthenticationFailed:
    """Say what was offered, what could not be, and what the hop accepts instead."""
    if error.question:
        return AuthenticationFailed(f"{where} asks {error.question}, and there is no terminal to answer at",
                                    remedy="run the command in a terminal, not in a script")
    offered = ", ".join(error.offered) or "none"
    parts = [f"keys offered: {offered}", *(f"{one.file}: {one.why}" for one in error.unusable)]
    if error.dropped:
        parts.append(f"it hung up: {error.dropped}")
    if error.methods:
        parts.append(f"it accepts {', '.join(error.methods)}")
    remedy = next((one.remedy for one in error.unusable if one.remedy), "")
    if not remedy and any(one.why == NO_FILE for one in error.unusable):
        remedy = f"set identity_file of {hop.name} in hosts.toml, or IdentityFile in ~/.ssh/config"
    if not remedy and error.dropped and "Too many" in error.dropped:
        remedy = (f"set identity_file of {hop.name} in hosts.toml, or IdentitiesOnly yes and IdentityFile in "
                  "~/.ssh/config")
    return AuthenticationFailed(f"permission denied: {where} does not accept the user {hop.user!r}; {'; '.join(parts)}",
                                remedy=remedy or f"check user and identity_file of {hop.name}; to let a key in: "
                                f"ssh-copy-id -i KEY.pub -p {hop.port} {hop.user}@{hop.address}")


def _not_forwarded(error: paramiko.ChannelException, hop: Hop, before: Hop, host: Host) -> Unreachable:
    to = f"{hop.address}:{hop.port}"
    if error.code == FORBIDDEN:
        return Unreachable(f"{before.name} ({before.where}) forbids forwarding to {hop.name} ({to}), on the route "
                           f"{host.route_words}: {error.text}",
                           remedy=f"its administrator must allow it (AllowTcpForwarding, PermitOpen {to}); or `relay = "
                                  f"true` for {before.name} in hosts.toml: a program on it carries the bytes")
    return Unreachable(f"{before.name} ({before.where}) cannot reach {hop.name} ({to}), on the route "
                       f"{host.route_words}: {error.text}", remedy=f"inv hosts --ping --host {host.name}")
