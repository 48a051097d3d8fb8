"""The same route for OpenSSH's own programs: an ssh_config with the same keys and the same strictness on every hop."""

from __future__ import annotations

from rdtops.ssh.hosts import Hop, Host


def config_text(host: Host) -> str:
    """An ssh_config in which `ssh -F FILE hop-N` reaches hop N of the route as Connection does; see destination."""
    return "\n".join(_block(hop, number) for number, hop in enumerate(host.route))


def destination(host: Host, hop: int = -1) -> str:
    """What a hop is called in config_text. Two hops may share a name, an address or both; a block that stood for two
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
        raise ValueError(f"ssh_config cannot hold {word!r}")
    return f'"{word}"'
