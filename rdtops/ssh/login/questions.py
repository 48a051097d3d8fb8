"""Questions: what `ssh` asks a person reaches us, by an askpass program, and the answers go to `ssh` alone."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rdtops.ssh.display import printable
from rdtops.ssh.hosts import Host
from rdtops.ssh.login import askpass
from rdtops.ssh.transport import Ask

PERSON_S = 120.0  # for a person to answer
ASKPASS = """\
#!/bin/sh
exec "{python}" -I "{program}" "{door}" "${{SSH_ASKPASS_PROMPT:-question}}" "$1"
"""


class Questions:
    """The questions of one `ssh`. `ask` is None where there is no person."""

    def __init__(self, host: Host, ask: Ask | None) -> None:
        self.ask = ask
        self.asked = False
        self.waited_s = 0.0  # for a person
        self._host = host

    @contextlib.contextmanager
    def asked_in(self, folder: Path) -> Iterator[dict[str, str]]:
        """Give the environment in which `ssh` asks. `folder`: of ours alone."""
        if self.ask is None:
            yield dict(os.environ)
            return
        way, program = folder / "ask", folder / "askpass"
        program.write_text(ASKPASS.format(python=sys.executable, program=askpass.__file__, door=way), encoding="utf-8")
        program.chmod(0o700)
        way.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(way))
            door.listen()
            threading.Thread(target=self._answer, args=(door, self.ask), daemon=True).start()
            yield {"DISPLAY": ":0", **os.environ, "SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}
            door.shutdown(socket.SHUT_RDWR)

    def _answer(self, door: socket.socket, ask: Ask) -> None:
        with contextlib.suppress(OSError):
            while True:
                way, _ = door.accept()
                with way, contextlib.suppress(OSError):
                    kind, _, question = _all_of(way).decode("utf-8", "replace").partition("\n")
                    way.sendall(self._reply(kind, question, ask))

    def _reply(self, kind: str, question: str, ask: Ask) -> bytes:
        if kind == "none":  # a hardware key wants to be touched
            sys.stderr.write(f"{printable(question)}\n")
            return askpass.GIVEN
        if "yes/no" in question:  # a host key: only `inv trust` accepts one
            return b"-"
        self.asked = True
        begun_s = time.monotonic()
        try:
            return askpass.GIVEN + ask(f"{self._host.name}: {question}", False).encode() + b"\n"
        except Exception:  # no terminal any more, or Ctrl-D
            return b"-"
        finally:
            self.waited_s += time.monotonic() - begun_s


def _all_of(way: socket.socket) -> bytes:
    return b"".join(iter(lambda: way.recv(4096), b""))
