"""Gate of a GPU host on OpenSSH: `python -m rdtops.lab.gate server.json`.

Listens on the host's port and hands a connection to `sshd -i` only when it comes from the jump host's sshd.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from contextlib import suppress

from rdtops.lab import connections, sshd
from rdtops.lab.server import ADDRESS, Server

_logger = logging.getLogger("gate")


def main(config: str) -> None:
    logging.basicConfig(format="%(asctime)s gate: %(message)s", level=logging.INFO)
    os.environ.pop("PYTHONPATH", None)
    os.chdir("/")
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    server = Server.load(config)
    with socket.create_server((ADDRESS, server.port), backlog=128) as listener:
        while True:
            connection, peer = listener.accept()
            with connection:
                _admit(connection, peer[1], server)


def _admit(connection: socket.socket, peer_port: int, server: Server) -> None:
    try:
        if connections.comes_from(connection, server.admitted):
            _serve(connection, server)
        else:
            _logger.info("refused port %d: not from the jump host", peer_port)
    except OSError as error:  # an error of one connection must not end the gate
        _logger.info("dropped port %d: %s", peer_port, error)


def _serve(connection: socket.socket, server: Server) -> None:
    argv = sshd.serving_one(server.sshd_config, server.log)
    wire = connection.fileno()
    os.posix_spawn(argv[0], argv, os.environ, setsid=True, file_actions=[
        (os.POSIX_SPAWN_DUP2, wire, 0), (os.POSIX_SPAWN_DUP2, wire, 1)])


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main(sys.argv[1])
