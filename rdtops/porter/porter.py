"""Porter: the host program of a transfer. Standard library, Python 3.8. The control side imports the same modules for
its own files, so the two sides cannot disagree about names, digests or what "complete" means.

A request is one JSON line, {"do": "scan" | "digest" | "survey" | "receive" | "send" | "stream" | "commit" | "space" |
"home", ...}. After it both sides send JSON lines; {"bytes": n} is followed by n raw bytes. The next request may
follow. A sender sends, file after file, without waiting:

    {"file": entry, "ask": true?}   with "ask" the receiver answers {"part": bytes, "md5": of them}
    {"from": offset} ({"bytes": n} raw)* {"sent": md5}
    {"end": true}

A sending host can send nothing else: it must announce the files of the request, in their order. A receiving host
obeys the control side, which has more messages:

    {"link": entry}   {"copy": entry, "of": path on the host}
    {"flush": true}   answered by {"flushed": true} when all before it is on the disk under its final name

A large file goes in ranges, over this wire and over those of other porters that are streams (see range_server):

    {"begin": entry}                answered by {"begun": path, "part": path of the part, "there": [[start, end], ...]}
    {"kept": path, "spans": [[start, end], ...]}   a stream has written these
    {"finish": path, "md5": ...}    every range is written; answered by {"done"}, or by {"begun"} to begin again

A receiver answers {"done": path, "md5": ...} for each file, or {"refused": path} for a copy whose origin is not what
the plan assumed. Either side may send {"error": kind, "path": ..., "reason": ...} and stop, and sends {"alive": true}
while it works without other messages.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from rdtops.porter.entries import Entry, Message, Problem, problem_of
from rdtops.porter.file_digests import Digests
from rdtops.porter.listing import all_digested, known, scan, survey
from rdtops.porter.range_server import RangeServer
from rdtops.porter.receiver import Receiver, commit
from rdtops.porter.sender import Sender
from rdtops.porter.target_lock import Lock, refuse_full, space
from rdtops.porter.wire import Heartbeat, Wire


def _do_scan(request: Message, wire: Wire) -> None:
    digests = _digests(request)
    for entry in scan(request["root"], request.get("files"), links=False):
        wire.say({"there": known(request["root"], entry, digests)._asdict()})
    wire.say({"end": True})


def _do_digest(request: Message, wire: Wire) -> None:
    digests = _digests(request)
    for entry in all_digested(request["root"], map(Entry.of, request["entries"]), digests):
        wire.say({"there": entry._asdict()})
    digests.save()
    wire.say({"end": True})


def _do_survey(request: Message, wire: Wire) -> None:
    digests = _digests(request)
    for message in survey(request["root"], request["wanted"], digests, request.get("basis", "")):
        wire.say(message)
        if message.get("alike"):
            wire.flush()  # the other side digests the same files meanwhile
    digests.save()
    wire.say({"end": True})


def _do_receive(request: Message, wire: Wire) -> None:
    root = request["root"]
    refuse_full(root, request["need_bytes"], request["need_files"])
    with Lock(root) as lock, Heartbeat(wire, _give_up, touch=lock.touch):
        wire.say({"ready": True})
        Receiver(wire, root, _digests(request)).run()


def _give_up() -> None:
    os._exit(3)  # the next transfer must not wait for the lock because of a read that never ends


def _do_send(request: Message, wire: Wire) -> None:
    wire.say({"ready": True})
    digests = _digests(request)
    sender = Sender(wire, request["root"], digests)
    for fields, ask in request["files"]:
        sender.send(Entry.of(fields), ask)
    sender.end()
    digests.save()


def _do_stream(request: Message, wire: Wire) -> None:
    wire.say({"ready": True})
    digests = _digests(request)
    range_server = RangeServer(wire, digests)
    try:
        while "end" not in (message := wire.hear()):
            range_server.handle(message)
    finally:
        range_server.close_all()
    digests.save()


def _do_home(_: Message, wire: Wire) -> None:
    wire.say({"home": os.path.expanduser("~")})


def _do_commit(request: Message, wire: Wire) -> None:
    commit(request["folder"], request["final"], request["files"], _digests(request))
    wire.say({"end": True})


def _do_space(request: Message, wire: Wire) -> None:
    free_bytes, free_files = space(request["root"])
    wire.say({"free_bytes": free_bytes, "free_files": free_files})


def _digests(request: Message) -> Digests:
    return Digests(request.get("cache", ""), request.get("trust", True), request.get("read_only", False))


OPERATIONS: dict[str, Callable[[Message, Wire], None]] = {
    "scan": _do_scan, "digest": _do_digest, "survey": _do_survey, "receive": _do_receive, "send": _do_send,
    "stream": _do_stream, "commit": _do_commit, "space": _do_space, "home": _do_home}


def main() -> None:
    assert isinstance(sys.stdin.buffer, io.BufferedReader)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    wire = Wire(sys.stdin.buffer.read1, lambda piece: _say(out, piece), trusting=True)
    try:
        while _serve(wire.hear(), wire):
            wire.flush()
        wire.flush()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the other side is gone; the parts stay for the next call
    out.close()


def _say(out: io.FileIO, piece: memoryview) -> None:
    """Write a message, without recording progress: a heartbeat is no progress."""
    while piece:
        piece = piece[out.write(piece):]


def _serve(request: Message, wire: Wire) -> bool:
    """Serve a request; return whether another one may follow."""
    try:
        if request["do"] == "receive":
            OPERATIONS["receive"](request, wire)  # has its own Heartbeat, which touches its lock
        else:
            with Heartbeat(wire, _give_up if request["do"] == "stream" else lambda: None):
                OPERATIONS[request["do"]](request, wire)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Problem as problem:
        wire.say(problem.message())
    except OSError as error:
        wire.say(problem_of(error, request.get("root", "")).message())
    except Exception as error:  # a bug; the other side shows one line of it, not a traceback
        wire.say(Problem("bug", request.get("root", ""), repr(error)).message())
    else:
        return True
    return False


if __name__ == "__main__":
    main()
