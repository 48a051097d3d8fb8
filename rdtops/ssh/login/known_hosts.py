"""Known hosts: the keys that known_hosts files give a hop, read as ssh reads them (sshd(8), SSH_KNOWN_HOSTS FILE
FORMAT).

A line that cannot be read is skipped, as ssh does, and noted; it hides no other line.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtops.ssh.hosts import Hop

REVOKED, AUTHORITY = "@revoked", "@cert-authority"
KNOWN, NEW, CHANGED, IS_REVOKED = "known", "new", "changed", "revoked"


@dataclass(frozen=True)
class KnownKey:
    """One line of a known_hosts file. `blob`: the public key in SSH's wire format."""

    marker: str  # "", REVOKED or AUTHORITY
    hosts: str
    kind: str  # ssh-ed25519
    blob: bytes
    line: int  # from 0

    def names(self, name: str) -> bool:
        """Return whether the line is about a host: `gpu` or `[gpu]:2222`, in lower case."""
        if self.hosts.startswith("|1|"):
            return _is_hash_of(self.hosts, name)
        patterns = [word.strip().lower() for word in self.hosts.split(",")]
        return (any(_matches(pattern, name) for pattern in patterns if not pattern.startswith("!"))
                and not any(_matches(pattern[1:], name) for pattern in patterns if pattern.startswith("!")))

    def is_only_about(self, name: str) -> bool:
        """Return whether the line is about this host and no other."""
        return self.hosts.lower() == name or (self.hosts.startswith("|1|") and self.names(name))


class KnownHosts:
    """The lines of the known_hosts files of a hop. `notes`: what could not be read."""

    def __init__(self, hop: Hop) -> None:
        self._keys: list[KnownKey] = []
        self.notes: list[str] = []
        self._names = names(hop)
        for file in hop.known_hosts_files:
            keys, notes = read(Path(file).expanduser())
            self._keys += keys
            self.notes += notes

    def verdict(self, kind: str, blob: bytes) -> str:
        """Return KNOWN, NEW, CHANGED (another key of that kind is known) or IS_REVOKED."""
        if any(key.blob == blob for key in self._about(REVOKED, self._names)):
            return IS_REVOKED
        first, *others = self._names
        known = self._about("", [first])
        if any(key.blob == blob for key in (known or self._about("", others))):
            return KNOWN
        return CHANGED if any(key.kind == kind for key in known) else NEW

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of the known keys: ask the hop for one of them."""
        return list(dict.fromkeys(key.kind for key in self._about("", self._names)))

    @property
    def has_authority(self) -> bool:
        """Return whether a certificate authority vouches for the hop's key."""
        return bool(self._about(AUTHORITY, self._names))

    def _about(self, marker: str, hosts: Sequence[str]) -> list[KnownKey]:
        return [key for key in self._keys if key.marker == marker and any(key.names(name) for name in hosts)]


def names(hop: Hop) -> list[str]:
    """Return the names under which the key of a hop is looked up. As in ssh, a key without a port holds for each."""
    if hop.ssh.host_key_alias:
        return [hop.ssh.host_key_alias.lower()]
    return list(dict.fromkeys([hop.known_hosts_entry.lower(), hop.address.lower()]))


def read(file: Path) -> tuple[list[KnownKey], list[str]]:
    """Return the keys of a known_hosts file, and what of it could not be read. A missing file has none."""
    try:
        lines = [line.decode("utf-8", "replace") for line in file.read_bytes().splitlines()]
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{file} cannot be read: {error.strerror}"]
    keys: list[KnownKey] = []
    notes = []
    for number, text in enumerate(lines):
        try:
            keys += _keys_of(text, number)
        except (ValueError, binascii.Error) as error:
            notes.append(f"{file}:{number + 1}: skipped: {error}")
    return keys, notes


def _keys_of(text: str, line: int) -> Iterator[KnownKey]:
    words = text.split()
    if not words or words[0].startswith("#"):
        return
    marker = words.pop(0) if words[0].startswith("@") else ""
    if marker not in ("", REVOKED, AUTHORITY):
        raise ValueError(f"unknown marker {marker[:40]}")
    if len(words) < 3:
        raise ValueError("not a host, a kind of key and a key")
    hosts, kind, content = words[:3]
    blob = base64.b64decode(content, validate=True)
    if len(fields := _fields(blob)) < 2 or fields[0] != kind.encode():
        raise ValueError(f"the key is not of the kind {kind[:40]}")
    yield KnownKey(marker, hosts, kind, blob, line)


def _fields(blob: bytes) -> list[bytes]:
    """Return the strings of RFC 4251 that a key is made of. Raise ValueError where one is cut off."""
    fields = []
    while blob:
        size = 4 + int.from_bytes(blob[:4], "big")
        if len(blob) < max(size, 4):
            raise ValueError("the key is cut off")
        fields.append(blob[4:size])
        blob = blob[size:]
    return fields


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(word, validate=True) for word in hashed.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def _matches(pattern: str, name: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, name) is not None


def notes_of(hops: Iterable[Hop]) -> list[str]:
    """Return what could not be read of the known_hosts files of a route, each note once."""
    return list(dict.fromkeys(note for hop in hops for note in KnownHosts(hop).notes))
