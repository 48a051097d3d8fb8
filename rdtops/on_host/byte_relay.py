"""Byte relay: runs on a jump that forbids forwarding, and carries bytes between its stdin, a port and its stdout."""

import os
import socket
import sys
import threading

PIECE = 1 << 18
CONNECT_S = 20


def main(address: str, port: str) -> None:
    """Connect to a port; end when the port closes."""
    connection = socket.create_connection((address, int(port)), CONNECT_S)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def up() -> None:
        for piece in iter(lambda: os.read(0, PIECE), b""):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=up, daemon=True).start()
    for piece in iter(lambda: connection.recv(PIECE), b""):
        rest = piece
        while rest:
            rest = rest[os.write(1, rest):]


if __name__ == "__main__":
    main(*sys.argv[1:])
