"""Trust: the only module that adds a host key, after showing its fingerprint."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rdtops.errors import HostKeyError, Incompatible
from rdtops.hostlib.files import write_whole
from rdtops.ssh.hosts import FABRIC, OPENSSH, Hop, Host
from rdtops.ssh.login import known_hosts, openssh_master, ssh_config
from rdtops.ssh.login.known_hosts import IS_REVOKED, KNOWN, KnownHosts
from rdtops.ssh.openssh_config import configured, destination
from rdtops.ssh.transport import Ask

PROBE_ALIAS = "rdtops-probe"  # the name of a key in a known_hosts file of our own


@dataclass(frozen=True)
class SeenKey:
    """The host key that a hop presented. `state` is known, new or changed. `blob`: the key in SSH's wire format."""

    hop: Hop
    kind: str
    blob: bytes
    state: str

    @property
    def fingerprint(self) -> str:
        """SHA256:..., as ssh-keygen -l prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


def trust(host: Host, accept: Callable[[SeenKey], bool], ask: Ask | None = None) -> list[SeenKey]:
    """Show the key of each hop to `accept` and record it when `accept` returns True. Skip known keys.

    Raise HostKeyError at the first key that is not accepted: the hops behind it cannot be reached.
    """
    seen: list[SeenKey] = []
    try:
        _trust(host, accept, ask, seen)
    except Incompatible:
        if host.transport == FABRIC or not ssh_config.is_installed():
            raise
        _trust(replace(host, transport=OPENSSH), accept, ask, seen := [])
    return seen


def _trust(host: Host, accept: Callable[[SeenKey], bool], ask: Ask | None, seen: list[SeenKey]) -> None:
    by_openssh = ssh_config.transport(host) == OPENSSH
    for hop, kind, blob in _keys_by_openssh(host, ask) if by_openssh else _keys_by_fabric(host, ask):
        key = SeenKey(hop, kind, blob, KnownHosts(hop).verdict(kind, blob))
        seen.append(key)
        if key.state == IS_REVOKED:
            raise HostKeyError(f"the host key of {hop.name} is revoked (@revoked) in "
                               f"{' or '.join(hop.known_hosts_files)}",
                               remedy="ask the administrator of the host for its new key")
        if key.state != KNOWN:
            if not accept(key):
                raise HostKeyError(f"the {key.state} host key of {hop.name} was not accepted, so {host.name} cannot "
                                   "be reached", remedy=f"inv trust --host {host.name}   # compare the fingerprint "
                                   "first")
            _record(key)


# A hop can be reached only when the hops before it are trusted: its key is recorded before the next is asked for.

def _keys_by_fabric(host: Host, ask: Ask | None) -> Iterator[tuple[Hop, str, bytes]]:
    from rdtops.ssh import exceptions
    from rdtops.ssh.login import fabric_chain

    chain = fabric_chain.FabricChain(host, ask)
    before: Hop | None = None
    try:
        for hop in host.route:
            try:
                key = fabric_chain.host_key(hop, fabric_chain.way_to(hop, before, chain.last), hop.connect_timeout_s)
            except Exception as error:  # paramiko raises many types; refusal() maps each of them
                raise exceptions.refusal(error, hop, host, before) from error
            yield hop, key.get_name(), key.asbytes()
            if hop is not host.route[-1]:
                chain.log_in(hop, before)
            before = hop
    finally:
        chain.close()


def _keys_by_openssh(host: Host, ask: Ask | None) -> Iterator[tuple[Hop, str, bytes]]:
    with configured(host, batch=ask is None) as folder:
        config, keys = Path(folder) / "config", Path(folder) / "keys"
        for number, hop in enumerate(host.route):
            keys.write_bytes(b"")
            there = [destination(host, number)] if hop is host or host.ssh_source is None else [
                "-l", hop.user, "-p", str(hop.port), hop.name]
            errors = openssh_master.run_asking(
                host, ask, Path(folder),
                ["ssh", "-F", str(config), "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={keys}",
                 "-o", "GlobalKnownHostsFile=/dev/null", "-o", "HashKnownHosts=no", "-o", f"HostKeyAlias={PROBE_ALIAS}",
                 "-o", "PreferredAuthentications=none", "-o", "UpdateHostKeys=no", *there, "exit"])
            found, _ = known_hosts.read(keys)
            if not found:
                raise openssh_master.failure(host, errors, "it showed no host key", number)
            yield hop, found[0].kind, found[0].blob


def _record(key: SeenKey) -> None:
    """Append the key; remove the old line of a changed key, and leave the rest of the file as it is."""
    hop = key.hop
    file = Path(hop.known_hosts).expanduser()
    if file.exists() and not file.is_file():  # /dev/null, say
        raise HostKeyError(f"cannot add the host key of {hop.name}: its known_hosts is {file}, which is not a file",
                           remedy=f"set known_hosts = \"~/.ssh/known_hosts\" for {hop.name} in hosts.toml, or "
                                  "UserKnownHostsFile in ~/.ssh/config; then run inv trust again")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        name = known_hosts.names(hop)[0]
        kept = _without_the_old(lines, name, key)
        entry = f"{name} {key.kind} {base64.b64encode(key.blob).decode()}\n".encode()
        write_whole(file.resolve(), b"".join(kept) + entry, file.stat().st_mode & 0o777 if file.exists() else 0o600)
    except OSError as error:
        raise HostKeyError(f"cannot add the host key of {hop.name}: {file}: {error.strerror}",
                           remedy=f"set known_hosts of {hop.name} in hosts.toml, or UserKnownHostsFile in "
                                  "~/.ssh/config, to a file that you can write") from None


def _without_the_old(lines: list[bytes], name: str, key: SeenKey) -> list[bytes]:
    """Return the lines of the first known_hosts file, in which other keys of this kind no longer hold for the host.
    Raise HostKeyError where one stands in another file or for a pattern of hosts: that is for a person to change."""
    first, *others = key.hop.known_hosts_files
    kept: dict[int, bytes] = dict(enumerate(lines))
    for file in (first, *others):
        for known in known_hosts.read(Path(file).expanduser())[0]:
            if known.marker or known.kind != key.kind or known.blob == key.blob or not known.names(name):
                continue
            hosts = [host for host in known.hosts.split(",") if host.lower() != name]
            if file != first or any(re.search(r"[*?!]", host) for host in hosts):
                raise HostKeyError(f"the old host key of {key.hop.name} stands in {file}:{known.line + 1} for "
                                   f"{known.hosts[:80]}, and would stay valid",
                                   remedy=f"remove that line, then inv trust --host {key.hop.name}")
            rest = [] if known.is_only_about(name) else hosts
            words = kept[known.line].split(None, 1)
            kept[known.line] = b" ".join([",".join(rest).encode(), words[1]]) if rest else b""
    return [line if line.endswith(b"\n") else line + b"\n" for line in kept.values() if line]
