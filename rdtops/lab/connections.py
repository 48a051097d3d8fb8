"""Loopback connections: find the process at the other end, and the listener of a port, in /proc/net/tcp and
/proc/PID/fd.

On loopback the address of a peer does not identify it, but the kernel knows which process holds the other end. A GPU
host of the lab serves a connection only when that process is the jump host's sshd or descends from it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rdtops.lab import lab_processes
from rdtops.lab.lab_processes import PROC, LabProcess

_LISTEN = 0x0A
_MAPPED = "0000000000000000FFFF0000"  # how /proc/net/tcp6 begins an IPv4 address


def comes_from(connection: socket.socket, jump: LabProcess | None) -> bool:
    """Tell whether the peer's end of this connection is held by `jump` or a process that descends from it."""
    inode = _peer_inode(connection)
    if jump is None or not inode:
        return False
    return any(lab_processes.holds_socket(pid, inode) for pid in lab_processes.family(jump.pid))


def listener(port: int) -> str | None:
    """Return `pid 12 (its command line)` of the listener of a port, as far as /proc shows it; None without a
    listener."""
    inodes = [s.inode for s in _sockets() if s.state == _LISTEN and s.local.endswith(f":{port:04X}")]
    if not inodes:
        return None
    for name in PROC.iterdir():
        if name.name.isdigit() and any(lab_processes.holds_socket(int(name.name), inode) for inode in inodes):
            return f"pid {name.name} ({lab_processes.command_line(int(name.name))})"
    return "a program of another user"


@dataclass(frozen=True)
class _Socket:
    local: str  # 0100007F:1F90
    remote: str
    state: int
    inode: int


def _peer_inode(connection: socket.socket) -> int:
    """Return the inode of the other end, 0 when it is already closed."""
    here, there = _written(connection.getsockname()), _written(connection.getpeername())
    return next((s.inode for s in _sockets() if (s.local, s.remote) == (there, here)), 0)


def _sockets() -> Iterator[_Socket]:
    for table in ("tcp", "tcp6"):
        path = PROC / "net" / table
        for line in path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []:
            fields = line.split()
            local, remote = (address.removeprefix(_MAPPED) for address in fields[1:3])
            yield _Socket(local, remote, int(fields[3], 16), int(fields[9]))


def _written(address: tuple[str, int]) -> str:
    """Format an IPv4 address as in /proc/net/tcp: the bytes as one number in this machine's byte order."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"
