"""Hosts of a transfer that are threads of the test: one that says what a script says, and an honest one whose words are
tampered with on their way."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rdtops.errors import ConnectionLost
from rdtops.porter import porter
from rdtops.porter.entries import Message, Problem, problem_of
from rdtops.porter.wire import Wire

ALTERED = b"the bytes that follow are altered"

Play = Callable[[Wire, Message], None]


@dataclass(frozen=True)
class PeerHost:
    name: str = "a800"


class Peer:
    """Is a connection to a host on which `play` answers every request, each over a wire of its own."""

    def __init__(self, play: Play, make: Callable[..., Wire] = Wire, patience_s: float = 20.0) -> None:
        """It goes when it has heard nothing for `patience_s`: each side waits for the other then."""
        self.host = PeerHost()
        self.logs_in_alone = False
        self.heard = bytearray()  # everything that this side said to it
        self._play = play
        self._make = make
        self._patience_s = patience_s
        self._streams: list[PeerStream] = []

    def absolute(self, path: str) -> str:
        return path

    def far(self, _: Any, request: Message, **__: float) -> PeerStream:
        stream = PeerStream(self._serve, self._patience_s)
        self._streams.append(stream)
        stream.wire.say(request)
        stream.wire.flush()
        return stream

    def ping(self, _: float) -> float:
        return 0.0

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def _serve(self, end: socket.socket) -> None:
        def read(size: int) -> bytes:
            piece = end.recv(size)
            self.heard += piece
            return piece

        wire = self._make(read, end.sendall)
        with contextlib.suppress(OSError, EOFError, Problem):  # it is cut, or has nothing more to say
            while True:
                self._play(wire, wire.hear())
                wire.flush()


class PeerStream:
    def __init__(self, serve: Callable[[socket.socket], None], patience_s: float) -> None:
        self._near, far = socket.socketpair()
        far.settimeout(patience_s)
        self.wire = Wire(self._read, self._write, lambda: bool(select.select([self._near], [], [], 0)[0]))
        self._thread = threading.Thread(target=self._run, args=(serve, far), daemon=True)
        self._thread.start()

    @staticmethod
    def _run(serve: Callable[[socket.socket], None], far: socket.socket) -> None:
        with far:
            serve(far)

    def __enter__(self) -> PeerStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()
        self._thread.join(10)
        self._near.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)

    def _read(self, size: int) -> bytes:
        with self._cut():
            if piece := self._near.recv(size):
                return piece
        raise ConnectionLost("cut")

    def _write(self, piece: Any) -> None:
        with self._cut():
            self._near.sendall(piece)

    @staticmethod
    @contextlib.contextmanager
    def _cut() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConnectionLost("cut") from error


def honest(wire: Wire, request: Message) -> None:
    """What the porter of a host does, without its beats: those end the process that they are in."""
    try:
        porter.OPERATIONS[request["do"]](request, wire)
    except Problem as problem:
        wire.say(problem.message())
    except (TimeoutError, EOFError, ConnectionError):
        raise
    except OSError as error:
        wire.say(problem_of(error).message())
    except (LookupError, TypeError, ValueError) as error:  # of a request that it has spoilt itself
        wire.say(Problem("bug", "", repr(error)).message())


class Tampering:
    """Changes one message of all that the wires of a peer carry: `change` gets it, and gives lines to say instead."""

    def __init__(self, at: int, change: Callable[[Message], list[Message | bytes]]) -> None:
        self.said: list[Message] = []
        self._at = at
        self._change = change
        self._lock = threading.Lock()

    def wire(self, *arguments: Any) -> Wire:
        tampering = self

        class Tampered(Wire):
            def say(self, message: Message) -> None:
                self._say(tampering._instead(message))

            def give(self, block: bytes) -> None:
                lines = tampering._instead({"bytes": len(block)})
                self._say(lines)
                with self._lock:
                    self._put(bytes([block[0] ^ 1]) + block[1:] if ALTERED in b"".join(lines) else block)

            def _say(self, lines: list[bytes]) -> None:
                with self._lock:
                    for line in lines:
                        self._put(line + b"\n")

        return Tampered(*arguments)

    def _instead(self, message: Message) -> list[bytes]:
        with self._lock:
            number = len(self.said)
            self.said.append(message)
        lines = self._change(message) if number == self._at else [message]
        return [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
