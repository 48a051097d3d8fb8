"""Keys of the lab: made without ssh-keygen, and never in ~/.ssh."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def make(path: Path, *, rsa: bool = False) -> None:
    """Write a new ed25519 or RSA key in OpenSSH format to `path` (mode 0600), its public key to `path`.pub."""
    key = generate_private_key(65537, 3072) if rsa else Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private)
    public_path(path).write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")


def public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def known_hosts(address: str, host_keys: Mapping[int, Path]) -> str:
    """Return the known_hosts file of these servers, by port."""
    public = {port: public_path(key).read_text(encoding="utf-8").strip() for port, key in host_keys.items()}
    return "".join(f"[{address}]:{port} {key}\n" for port, key in public.items())
