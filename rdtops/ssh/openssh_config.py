"""OpenSSH config: an ssh_config of a route for OpenSSH's own programs, with the same keys and host key checking."""

from __future__ import annotations

from rdtops.ssh.hosts import Hop, Host


def config_text(host: Host) -> str:
    """Return an ssh_config with which `ssh -F FILE hop-N` reaches hop N of the route; see destination."""
    return "\n".join(_block(hop, number) for number, hop in enumerate(host.route))


def destination(host: Host, hop: int = -1) -> str:
    """Return the name of a hop in config_text. Two hops may share a name, an address or both; one block for two hops
    would be its own jump, and ssh would start itself without end."""
    return f"hop-{hop % len(host.route)}"


def _block(hop: Hop, number: int) -> str:
    lines = [f"Host hop-{number}", f"HostName {hop.address}", f"Port {hop.port}", f"User {_quoted(hop.user)}",
             f"UserKnownHostsFile {_quoted(hop.known_hosts)}", "GlobalKnownHostsFile /dev/null",
             "StrictHostKeyChecking yes", f"ConnectTimeout {hop.connect_timeout_s}", "ServerAliveInterval 15"]
    if hop.identity_file:
        lines += [f"IdentityFile {_quoted(hop.identity_file)}", "IdentitiesOnly yes"]
    if number:
        lines.append(f"ProxyJump hop-{number - 1}")
    return "\n  ".join(lines) + "\n"


def _quoted(word: str) -> str:
    if '"' in word or "\n" in word:
        raise ValueError(f"ssh_config cannot contain {word!r}")
    return f'"{word}"'
