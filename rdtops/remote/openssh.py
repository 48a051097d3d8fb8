"""The same route for OpenSSH's own programs: an ssh_config with the same keys and the same strictness on every hop."""

from __future__ import annotations

from rdtops.remote.hosts import Hop, Host


def config_text(host: Host) -> str:
    """An ssh_config in which `ssh -F FILE NAME` reaches `host` as Connection does."""
    blocks, before = [], ""
    for hop in host.route:
        blocks.append(_block(hop, before))
        before = hop.name
    return "\n".join(blocks)


def _block(hop: Hop, jump: str) -> str:
    lines = [f"Host {hop.name}", f"HostName {hop.address}", f"Port {hop.port}", f"User {_quoted(hop.user)}",
             f"UserKnownHostsFile {_quoted(hop.known_hosts)}", "GlobalKnownHostsFile /dev/null",
             "StrictHostKeyChecking yes", f"ConnectTimeout {hop.connect_timeout_s}", "ServerAliveInterval 15"]
    if hop.identity_file:
        lines += [f"IdentityFile {_quoted(hop.identity_file)}", "IdentitiesOnly yes"]
    if jump:
        lines.append(f"ProxyJump {jump}")
    return "\n  ".join(lines) + "\n"


def _quoted(word: str) -> str:
    if '"' in word or "\n" in word:
        raise ValueError(f"ssh_config cannot hold {word!r}")
    return f'"{word}"'
