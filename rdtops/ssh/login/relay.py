"""Relay: the way past a jump that forbids forwarding, where hosts.toml allows it (`relay = true`): a program in a
session of the jump carries the bytes. They are those of SSH: the jump can read them no more than when it forwards."""

from __future__ import annotations

import base64
from pathlib import Path

from rdtops.on_host import byte_relay
from rdtops.ssh.command import Command, for_a_terminal
from rdtops.ssh.hosts import Hop


def relay_command(hop: Hop) -> str:
    """Return the command for the login shell of a jump that reaches `hop` from there."""
    source = base64.b64encode(Path(byte_relay.__file__).read_bytes()).decode()  # a line, for an ssh_config too
    program = f"exec(__import__('base64').b64decode('{source}'))"
    ways = (Command("python3", "-c", program, hop.address, str(hop.port)), Command("nc", hop.address, str(hop.port)),
            Command("socat", "-", f"TCP:{hop.address}:{hop.port}"))
    tries = (f"command -v {way.argv[0]} >/dev/null 2>&1 && exec {way.shell()}" for way in ways)
    return for_a_terminal("; ".join([*tries, "echo 'relay: no python3, nc or socat here' >&2", "exit 127"]))
