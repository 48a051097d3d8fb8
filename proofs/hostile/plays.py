"""Plays: what a hostile host does with an answer. A play gets each message of the honest program, and yields what goes
to the laptop instead: messages, or raw bytes. Standard library."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from proofs.hostile import mutations

if TYPE_CHECKING:
    from proofs.hostile.hostile_python import Stage

Message = dict[str, Any]
Play = Callable[[Message, "Stage"], Iterator["Message | bytes"]]

OUTSIDE = "../../plugins"
SCREEN = "\x1b]52;c;cHduZWQ=\x07\x1b]0;pwned\x07\x1b[2J\x1b[H\x1bc\x9b2J\x08\x7f\u202e"  # clipboard, title, clear
PWNED = b"open(__import__('os').environ['HOSTILE_FLAG'], 'w').close()\n"
SHARE = 0.3  # share of the messages; some commands have only three
LAST_S = 900.0  # limit of an endless play when the laptop does not disconnect

PLAYS: dict[str, Play] = {}


def play(function: Play) -> Play:
    PLAYS[function.__name__] = function
    return function


@play
def mutated(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Change some messages, the same ones in the same way for the same `mutation` of the same `seed`."""
    kind = next(iter(message), "")
    name = f"{stage.seed}/{stage.mutation}/{kind}"
    if stage.count(kind, lambda number: random.Random(f"{name}/{number}").random() < SHARE):  # noqa: S311
        yield from mutations.of(message, random.Random(name))  # noqa: S311  # reproducible, not a secret
    else:
        yield message


# --- names that lead out ---

@play
def run_id_outside(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    for facts in _facts(message):
        facts["run_id"] = OUTSIDE
    if "names" in message:
        message["names"] = [OUTSIDE]
    yield message


@play
def checkpoint_outside(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    for checkpoint in message.get("checkpoints", ()):
        checkpoint["name"] = "../../../../../pwned"
    yield message


@play
def evaluation_outside(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    for evaluation in message.get("evaluations", ()):
        evaluation["name"] = "../../../../plugins"
    yield message


@play
def twin_outside(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Answer a launch with another run as its duplicate."""
    if message.keys() == {"launcher", "note"}:
        message = {"duplicate": OUTSIDE, "state": "running"}
    yield message


@play
def files_outside(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """List a file outside the folder for download."""
    if "end" in message:
        for path in ("../../../plugins/pwned.py", f"{stage.home}/pwned.py", "a/../../../../../plugins/pwned.py"):
            yield {"there": _entry(path, PWNED)}
    yield message


# --- messages that a sender must not send ---

@play
def put_outside(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Send a range of bytes into a file of the host's choice, as on a stream."""
    yield message
    if "ready" in message:
        yield {"put": f"{stage.site_packages}/.rdtops-part-x.pth", "at": 0, "size": len(PWNED)}
        yield {"bytes": len(PWNED)}
        yield PWNED
        yield {"close": f"{stage.site_packages}/.rdtops-part-x.pth"}


@play
def begin_outside(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    yield message
    if "ready" in message:
        yield {"begin": _entry("../../../plugins/pwned.py", PWNED)}
        yield {"kept": "../../../plugins/pwned.py", "spans": [[0, len(PWNED)]]}
        yield {"finish": "../../../plugins/pwned.py", "md5": hashlib.md5(PWNED).hexdigest()}


@play
def copy_of_a_local_file(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Ask whether the laptop has a file with this content, and for a copy at a place the host can read."""
    yield message
    if "ready" in message:
        yield {"copy": {**_entry("stolen", b""), "md5": "0" * 32, "size": 6}, "of": stage.secret}
        yield {"copy": {**_entry("stolen", b""), "md5": stage.secret_md5, "size": 6}, "of": stage.secret}
        yield {"flush": True}


@play
def unasked_file(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    yield message
    if "ready" in message:
        yield {"file": _entry("unasked.py", PWNED), "ask": False}
        yield {"from": 0}
        yield {"bytes": len(PWNED)}
        yield PWNED
        yield {"sent": hashlib.md5(PWNED).hexdigest()}


@play
def unasked_link(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    yield message
    if "ready" in message:
        yield {"link": _link("unasked", "checkpoints")}


@play
def links_in_a_chain(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Send links that each stay inside by their text, but together lead out, so that the laptop writes through them."""
    if "end" in message:
        climbs = "d/e/up/d/e/up/d/e/up/../../.."
        yield {"there": _link("d/e/up", "../..")}
        for name in ("README.md", "report.html", "run.json", "loss.svg", "loss.png", "checkpoints"):
            yield {"there": _link(name, f"{climbs}/plugins/pwned.py")}
    yield message


# --- terminal codes ---

@play
def screen_codes(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Put terminal codes into every text of an answer except names and paths."""
    yield _with_codes(message)


@play
def screen_codes_in_names(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    for checkpoint in message.get("checkpoints", ()):
        checkpoint["name"] += SCREEN
    for facts in _facts(message):
        facts["run_id"] += SCREEN
    for release in message.get("releases", ()):
        release["name"] += SCREEN
    for key in ("unfinished", "removed", "names"):
        if message.get(key):
            message[key] = [*message[key], SCREEN + "x"]
    if "states" in message:
        message["states"] = {name + SCREEN: {"state": "damaged", "wrong": [SCREEN]} for name in message["states"]}
    yield message


@play
def screen_codes_in_errors(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Put terminal codes into the error of a transfer."""
    yield {"error": "os", "path": f"/there/{SCREEN}", "reason": f"no {SCREEN}"}


@play
def screen_codes_in_a_full_disk(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    yield {"error": "full", "path": "x", "reason": SCREEN, "filesystem": SCREEN, "missing_bytes": "many"}


@play
def screen_codes_on_stderr(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    stage.ends(1, f"Traceback {SCREEN} (most recent\n".replace("Traceback", "Sorry").encode())
    yield message


@play
def no_message(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    yield f"welcome to this host {SCREEN}\n".encode()


# --- endless answers ---

@play
def news_bomb(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Send four megabytes that decompress to four gigabytes."""
    if not {"run", "files"} <= message.keys():
        yield message
        return
    packer = zlib.compressobj(9)
    head = packer.compress(b'{"run": "') + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"a" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"a" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # after a flush: the same for ever
    yield b'{"shrunk": "' + base64.b85encode(head + block * 4096) + b'"}\n'


@play
def endless_line(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    yield b'{"there": "'
    yield from _endlessly(b"x" * (1 << 20))


@play
def endless_output(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Repeat the same answer."""
    yield from _endlessly((json.dumps(message) + "\n").encode() * 1000)


@play
def endless_words_on_stderr(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    for piece in _endlessly(b"sorry\n" * 20_000):
        os.write(2, piece)
    yield message


@play
def endless_listing(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """List files for download without end."""
    if "there" in message:
        end_s, number = time.monotonic() + LAST_S, 0
        while time.monotonic() < end_s:
            yield b"".join(json.dumps({"there": _entry(f"f{number + n}", b"")}).encode() + b"\n" for n in range(1000))
            number += 1000
    yield message


@play
def endless_news(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Announce more data for ever, always the same."""
    for piece in (message.get("files") or {}).values():
        piece["more"] = True
    yield message


@play
def alive_for_ever(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    end_s = time.monotonic() + LAST_S
    while time.monotonic() < end_s:
        yield {"alive": True}
        time.sleep(1.0)


@play
def one_byte_a_second(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    for byte in json.dumps({**message, "padding": "x" * 1000}).encode():
        yield bytes([byte])
        time.sleep(1.0)
    yield b"\n"


@play
def deep_nesting(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    yield b'{"runs": ' + b"[" * 200_000 + b"\n"


@play
def endless_number(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    for facts in _facts(message):
        facts["exit_code"] = "@"
    yield json.dumps(message).replace('"@"', "9" * 5000).encode() + b"\n"


@play
def another_kind(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    """Send a list instead of an object."""
    yield json.dumps([message]).encode() + b"\n"


@play
def nothing(message: Message, stage: Stage) -> Iterator[Message | bytes]:
    stage.ends(0)
    yield message


# --- pieces ---

def _facts(message: Message) -> list[dict[str, Any]]:
    runs = message.get("runs") or []
    run = message.get("run")
    return [*runs, *([run] if isinstance(run, dict) else []), *(message.get("evaluations") or [])]


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "kind": "file", "size": len(content), "md5": hashlib.md5(content).hexdigest(),
            "mtime_ns": 1, "executable": False, "link": "", "holes": 0}


def _link(path: str, to: str) -> dict[str, Any]:
    return {**_entry(path, b""), "kind": "link", "md5": hashlib.md5(to.encode()).hexdigest(), "link": to}


def _with_codes(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _with_codes(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_codes(v, key) for v in value]
    is_name = key in ("run_id", "name", "folder", "path", "config", "digest", "kind", "state", "md5", "there",
                      "begun", "part", "alike", "out", "cursor")
    return value + SCREEN if isinstance(value, str) and value and not is_name else value


def _endlessly(piece: bytes) -> Iterator[bytes]:
    end_s = time.monotonic() + LAST_S
    while time.monotonic() < end_s:
        yield piece
