"""Python of a hostile host: runs the honest host program behind a pipe, and forwards what a play makes of each of its
messages. Every other use of Python is run once and cached, except the start of a training, which ends at once. Standard
library, quick to start."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rdtops.hostlib import files, locks

SETTINGS, SAID, HEARD = "settings.json", "said", "heard"
READER_WORD = "zlib.decompress"  # of the command line that reads a host program from stdin


def main() -> None:
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    if not any(READER_WORD in word for word in words):
        _something_else(folder, words)
    settings = json.loads((folder / SETTINGS).read_text())
    source = zlib.decompress(_exactly(int(_line()))).decode()
    sys.argv = ["-c"]  # all that READER leaves
    if settings["play"] == "honest":
        exec(compile(source, "<rdtops>", "exec"), {"__name__": "__main__"})  # noqa: S102  # as READER does
        return
    _between(folder, settings, source)


# --- in between ---

class Stage:
    """The tools of a play: its facts, the laptop's messages, and raw output."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.settings = settings
        self._said = folder / f"{SAID}{settings['log']}"

    def __getattr__(self, name: str) -> Any:
        return self.settings[name]

    def count(self, kind: str, is_changed: Callable[[int], bool]) -> bool:
        """Count a message. `is_changed` gets its number among those of its kind since the play began: the programs of a
        command share the count."""
        with self._said.open("r+") as file:
            locks.flock(file.fileno(), locks.EXCLUSIVE)
            is_one = is_changed(sum(line.rstrip("*\n") == kind for line in file))
            file.write(f"{kind}{'*' * is_one}\n")
        return is_one

    @staticmethod
    def ends(code: int, said: bytes = b"") -> None:
        os.write(2, said)
        os._exit(code)


def _between(folder: Path, settings: dict[str, Any], source: str) -> None:
    from proofs.hostile import plays

    asked, answered = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.dup2(asked[0], 0)
        os.dup2(answered[1], 1)
        for end in (*asked, *answered):
            os.close(end)
        exec(compile(source, "<rdtops>", "exec"), {"__name__": "__main__"})  # noqa: S102  # as READER does
        sys.stdout.flush()
        os._exit(0)
    os.close(asked[0])
    os.close(answered[1])
    heard = folder / f"{HEARD}{settings['log']}"
    threading.Thread(target=_hand_in, args=(heard, asked[1]), daemon=True).start()
    stage, play = Stage(folder, settings), plays.PLAYS[settings["play"]]
    try:
        with os.fdopen(answered[0], "rb") as said:
            for message, is_shrunk in _messages(said):
                if isinstance(message, bytes):
                    _write(message)
                    continue
                for altered in play(message, stage):
                    _write(altered if isinstance(altered, bytes) else _encoded(altered, is_shrunk))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _messages(said: Any) -> Iterator[tuple[dict[str, Any] | bytes, bool]]:
    """Yield messages, the raw bytes that follow some of them, and whether they came compressed."""
    while line := said.readline():
        try:
            message = json.loads(line)
        except ValueError:
            yield line, False
            continue
        if isinstance(message, dict) and isinstance(message.get("shrunk"), str):
            yield json.loads(zlib.decompress(base64.b85decode(message["shrunk"]))), True
        elif isinstance(message, dict):
            yield message, False
            if isinstance(message.get("bytes"), int):
                yield said.read(message["bytes"]), False
        else:
            yield line, False


def _encoded(message: dict[str, Any], is_shrunk: bool) -> bytes:
    text = json.dumps(message).encode()
    if is_shrunk:
        text = json.dumps({"shrunk": base64.b85encode(zlib.compress(text, 6)).decode()}).encode()
    return text + b"\n"


def _hand_in(log: Path, to: int) -> None:
    with contextlib.suppress(OSError), log.open("ab", buffering=0) as heard:  # it may no longer read
        while piece := os.read(0, 1 << 16):
            heard.write(b"".join(line for line in piece.splitlines(True) if line.startswith(b'{"')))
            _write(piece, to)
    with contextlib.suppress(OSError):
        os.close(to)


def _write(content: bytes, to: int = 1) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(to, view):]


def _line() -> bytes:
    """Read not one byte more: the rest belongs to the program."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    return line


def _exactly(size: int) -> bytes:
    pieces = []
    while size:
        pieces.append(os.read(0, min(size, 1 << 20)))
        size -= len(pieces[-1])
    return b"".join(pieces)


# --- other uses of Python ---

def _something_else(folder: Path, words: list[str]) -> None:
    if "rdtops.supervisor" in words:
        os._exit(0)
    if any(word.endswith("lease.py") for word in words):
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606  # it becomes launch.sh
    stdin = b"" if os.isatty(0) else sys.stdin.buffer.read()
    known = folder / hashlib.md5(json.dumps([words, os.environ.get("PYTHONPATH"), stdin.decode("latin-1")]).encode()
                                 ).hexdigest()
    if not known.exists():
        done = subprocess.run([sys.executable, *words], input=stdin, capture_output=True, check=False)
        files.write_whole(known, json.dumps([done.returncode, done.stdout.decode("latin-1"),
                                             done.stderr.decode("latin-1")]))
    code, out, err = json.loads(known.read_text())
    _write(out.encode("latin-1"))
    _write(err.encode("latin-1"), 2)
    os._exit(code & 0xFF)
