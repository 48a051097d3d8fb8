"""Trust: the only module that adds a host key, after showing its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paramiko

from rdtops.errors import HostKeyError
from rdtops.hostlib.files import write_whole
from rdtops.ssh.connection import keys_of
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.transport import Ask


@dataclass(frozen=True)
class SeenKey:
    """The host key that a hop presented. `state` is known, new or changed."""

    hop: Hop
    kind: str
    fingerprint: str  # SHA256:..., as ssh-keygen -l prints it
    state: str


def trust(host: Host, accept: Callable[[SeenKey], bool], ask: Ask | None = None) -> list[SeenKey]:
    """Show the key of each hop to `accept` and record it when `accept` returns True. Skip known keys.

    Raise HostKeyError at the first key that is not accepted: the hops behind it cannot be reached.
    """
    seen = []
    for hop, key in keys_of(host, ask):
        shown = SeenKey(hop, key.get_name(), key.fingerprint, _state(hop, key))
        seen.append(shown)
        if shown.state != "known":
            if not accept(shown):
                raise HostKeyError(f"the {shown.state} host key of {hop.name} was not accepted, so {host.name} cannot "
                                   "be reached", remedy=f"inv trust --host {host.name}   # compare the fingerprint "
                                   "first")
            _record(hop, key)
    return seen


def _state(hop: Hop, key: paramiko.PKey) -> str:
    known = _entries(hop).lookup(hop.known_hosts_entry)
    same_kind = known.get(key.get_name()) if known else None
    if same_kind is None:
        return "new"
    return "known" if same_kind == key else "changed"


def _entries(hop: Hop) -> paramiko.HostKeys:
    file = Path(hop.known_hosts).expanduser()
    return paramiko.HostKeys(str(file) if file.exists() else None)


def _record(hop: Hop, key: paramiko.PKey) -> None:
    """Append the key; replace the old line of a changed key, and leave the rest of the file as it is."""
    file = Path(hop.known_hosts).expanduser()
    if file.exists() and not file.is_file():  # /dev/null, say
        raise HostKeyError(f"cannot add the host key of {hop.name}: its known_hosts is {file}, which is not a file",
                           remedy=f"set known_hosts = \"~/.ssh/known_hosts\" for {hop.name} in hosts.toml, or "
                                  "UserKnownHostsFile in ~/.ssh/config; then run inv trust again")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    kept = [line for line in lines if not _is_old_key(line, hop, key.get_name())]
    if kept and not kept[-1].endswith("\n"):
        kept[-1] += "\n"
    entry = f"{hop.known_hosts_entry} {key.get_name()} {key.get_base64()}\n"
    write_whole(file.resolve(), "".join(kept) + entry, file.stat().st_mode & 0o777 if file.exists() else 0o600)


def _is_old_key(line: str, hop: Hop, kind: str) -> bool:
    words = line.split()
    if len(words) < 3 or words[0].startswith(("#", "@")) or words[1] != kind:
        return False
    entry = paramiko.hostkeys.HostKeyEntry.from_line(line)
    if entry is None:
        return False
    names = paramiko.HostKeys()  # compares hashed names too
    for name in entry.hostnames:
        names.add(name, kind, entry.key)
    return names.lookup(hop.known_hosts_entry) is not None
