"""SSH exceptions: turn the exceptions of paramiko and of sockets into errors that name the hop and the next command."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

import fabric
import paramiko

from rdtops.errors import AuthenticationFailed, CommandFailed, ConnectionLost, HostError, HostKeyError, Unreachable
from rdtops.ssh.hosts import Hop, Host

_MUTE = ("No existing session", "Error reading SSH protocol banner")  # paramiko's two messages for the same fault
_GONE = re.compile(r"timeout|transport shut down|saw EOF", re.IGNORECASE)  # its messages for a loss during the login
# Python 2, Python 3.6, and one that was built without zlib
_UNFIT = re.compile(r"Unknown option: -I|future feature annotations is not defined|No module named '?zlib")


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


def unfit_python(host: Host, code: int, errors: str) -> CommandFailed | None:
    """Return the error of a host whose Python is missing or cannot run our programs; None for any other end."""
    if code not in (126, 127) and not _UNFIT.search(errors):
        return None
    return CommandFailed(f"{host.name}: {errors.strip()[-600:] or f'{host.python}: command not found'}",
                         remedy=f"set hosts.{host.name}.python in hosts.toml to a Python 3.8 or newer")


def refusal(error: Exception, hop: Hop, host: Host) -> HostError:
    """Return the error that says why a hop refused the login, with the next command."""
    where = f"{hop.name} ({hop.where}), on the route {host.route_words}"
    trust = f"inv trust --host {host.name}"
    if isinstance(error, paramiko.BadHostKeyException):
        return HostKeyError(f"the host key of {where} has CHANGED: {hop.known_hosts} has a different key. Either the "
                            "machine was reinstalled, or this is a man-in-the-middle attack", remedy=trust)
    if isinstance(error, paramiko.SSHException) and "not found in known_hosts" in str(error):
        return HostKeyError(f"the host key of {where} is not known: {hop.known_hosts} has no entry "
                            f"{hop.known_hosts_entry}", remedy=trust)
    if isinstance(error, paramiko.PasswordRequiredException):
        return AuthenticationFailed(f"the key {hop.identity_file} for {where} needs a passphrase",
                                    remedy=f"ssh-add {hop.identity_file}")
    if isinstance(error, FileNotFoundError) and hop.identity_file and not Path(hop.identity_file).exists():
        return AuthenticationFailed(f"no such key file: {hop.identity_file}, for {where}",
                                    remedy=f"set identity_file of {hop.name} in hosts.toml")
    if isinstance(error, paramiko.AuthenticationException) and _GONE.search(str(error)):
        return Unreachable(f"cannot reach {where}: it stopped answering during the login ({error})",
                           remedy=f"inv hosts --ping --host {host.name}")
    if isinstance(error, paramiko.AuthenticationException):
        if "it asks" in str(error):
            return AuthenticationFailed(f"{where} requires more than a key ({error}), and there is no terminal to "
                                        "answer at", remedy="run the command in a terminal, not in a script")
        return AuthenticationFailed(f"permission denied: {where} does not accept the user {hop.user!r} with "
                                    f"{hop.identity_file or 'the keys of ~/.ssh and the agent'}",
                                    remedy=f"check user and identity_file of {hop.name} in hosts.toml")
    if isinstance(error, socket.gaierror):
        return Unreachable(f"cannot resolve the address {hop.address!r} of {hop.name} (route {host.route_words})",
                           remedy=f"check address of {hop.name} in hosts.toml")
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        error = next(iter(error.errors.values()))  # its own message is "[Errno None]"
    mute = isinstance(error, paramiko.SSHException) and str(error) in _MUTE
    why = "the port accepts the connection but does not answer as an SSH server" if mute else error
    return Unreachable(f"cannot reach {where}: {why or type(error).__name__}",
                       remedy=f"inv hosts --ping --host {host.name}")
