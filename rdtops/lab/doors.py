"""Doors: how the lab's jump host lets people in, as other people's bastions do.

Only the jump host has one; the GPU hosts behind it stay as they are. What a door wants to be told lies in the jump
host's folder, for its user alone.
"""

from __future__ import annotations

import os
import secrets
from importlib.util import find_spec
from pathlib import Path

from rdtops.errors import LabError
from rdtops.hostlib import locks
from rdtops.lab import sshd

OPEN = "open"
DOORS = {
    OPEN: "takes a key and forwards to the hosts",
    "noforward": "takes a key and gives a shell, but forwards nothing (AllowTcpForwarding no)",
    "password": "takes a password, no key",
    "code": "takes a one-time code, no key",
    "key-and-code": "takes a key, then a one-time code",
    "menu": "takes a key and shows a menu at a terminal, as JumpServer does; no command, no forwarding",
    "oldkeys": "has only an ssh-rsa host key and key exchange with SHA-1, as servers of 2010",
}
KEYS_OF_THE_JUMP = {"noforward": "relay = true\n"}  # that its table in hosts.toml needs
CODES = 20  # that are unused when the lab comes up; each login takes one
_TOLD_BY = {"password": "password", "code": "codes", "key-and-code": "codes"}


def played_by(door: str, backend: str) -> str:
    """Return the server that plays this door in a lab of this backend. Raise LabError where there is none."""
    if door not in DOORS:
        raise LabError(f"the lab has no door {door!r}", remedy=f"one of {', '.join(DOORS)}")
    without_pam = backend != "openssh" or sshd.pam_obstacle() is not None
    if door == "menu" or (door in ("password", "code") and without_pam):
        if not find_spec("asyncssh"):
            raise LabError(f"the door {door} needs the Python package asyncssh", remedy="pip install asyncssh")
        return "asyncssh"
    if door in ("key-and-code", "oldkeys") and backend != "openssh":
        raise LabError(f"the door {door} needs sshd, and this lab runs on {backend}",
                       remedy=f"inv lab.up --backend openssh --door {door}")
    if door == "key-and-code" and (why := sshd.pam_obstacle()):
        raise LabError(f"the door {door} needs PAM: {why}",
                       remedy="inv lab.up --door code   # a code without a key, which asyncssh can ask for")
    return backend


def told_by(door: str) -> str:
    """Return the name of the file that says what to type at this door; '' where nothing is asked."""
    return _TOLD_BY.get(door, "")


def prepare(door: str, folder: Path) -> None:
    """Write what the door wants to be told into the jump host's folder: a password once, used codes again."""
    name = told_by(door)
    if not name:
        return
    with os.fdopen(os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as words:
        locks.flock(words.fileno(), locks.EXCLUSIVE)  # a login may use a code up at this moment
        known = words.read().splitlines()
        if name == "password":
            new = [] if known else [secrets.token_urlsafe(9)]
        else:
            new = [f"{number:06}" for number in secrets.SystemRandom().sample(range(10 ** 6), CODES - len(known))]
        words.writelines(f"{word}\n" for word in new)
