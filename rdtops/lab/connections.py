"""Who is at the other end of a loopback connection, and who listens on a port: /proc/net/tcp and /proc/PID/fd.

On loopback the address of a peer says nothing, but the kernel knows which process holds the other end. A GPU host of
the lab serves a connection only when that process is the jump host's sshd or descends from it.
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
    """Whether the peer's end of this connection is held by `jump` or a process that descends from it."""
    inode = _peer_inode(connection)
    if jump is None or not inode:
        return False
    return any(lab_processes.holds_socket(pid, inode) for pid in lab_processes.family(jump.pid))


def listener(port: int) -> str | None:
    """`pid 12 (its command line)` of who listens on this port, as far as /proc lets us see; None when nobody does."""
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
    """The inode of the other end, 0 when it is closed already."""
    here, there = _written(connection.getsockname()), _written(connection.getpeername())
    return next((s.inode for s in _sockets() if (s.local, s.remote) == (there, here)), 0)


def _sockets() -> Iterator[_Socket]:
    for table in ("tcp", "tcp6"):
        path = PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            local, remote = (address.removeprefix(_MAPPED) for address in fields[1:3])
            yield _Socket(local, remote, int(fields[3], 16), int(fields[9]))


def _written(address: tuple[str, int]) -> str:
    """An IPv4 address as /proc/net/tcp writes it: the bytes as one number of this machine's byte order."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"
