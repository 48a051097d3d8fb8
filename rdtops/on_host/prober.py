"""Host program: run many small commands at once, each with its own time limit.

Request (one JSON line): {"probes": {name: {"shell": str, "timeout_s": float, "stdin": base64, may be missing}}}
Answer  (one JSON line): {name: {"code": int or null (timed out), "out": str, "err": str, "seconds": float}}
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time

from rdtops.hostlib.fields import loads

LIMIT = 200000  # bytes of one output; a probe that prints more is killed


def probe(shell: str, timeout_s: float, stdin: str = "") -> dict[str, object]:
    start = time.monotonic()
    process = subprocess.Popen(["sh", "-c", shell], stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    with contextlib.suppress(OSError):  # the command does not read its stdin
        if process.stdin:
            os.write(process.stdin.fileno(), base64.b64decode(stdin))
            process.stdin.close()
    out, err = bytearray(), bytearray()
    code = None
    if gather(process, out, err, start + timeout_s):
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, start + timeout_s - time.monotonic()))
    if code is None:
        kill(process)
    if len(out) > LIMIT or len(err) > LIMIT:
        code, err = -signal.SIGKILL, bytearray(b"it printed more than %d bytes" % LIMIT)
    return {"code": code, "out": out[:LIMIT].decode("utf-8", "replace"), "err": err[:LIMIT].decode("utf-8", "replace"),
            "seconds": round(time.monotonic() - start, 3)}


def gather(process: subprocess.Popen[bytes], out: bytearray, err: bytearray, deadline: float) -> bool:
    """Read both pipes. Return whether both were closed before the deadline, and before one exceeded LIMIT."""
    assert process.stdout
    assert process.stderr
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ, out)
        ready.register(process.stderr, selectors.EVENT_READ, err)
        while ready.get_map():
            left = deadline - time.monotonic()
            if left <= 0 or max(len(out), len(err)) > LIMIT:
                return False
            for key, _ in ready.select(left):
                piece = os.read(key.fd, 1 << 16)
                key.data.extend(piece)
                if not piece:
                    ready.unregister(key.fileobj)
    return True


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its children too, else they keep the pipes open


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    answers: dict[str, object] = {}

    def ask(name: str, shell: str, timeout_s: float, stdin: str) -> None:
        try:
            answers[name] = probe(shell, timeout_s, stdin)
        except OSError as error:
            answers[name] = {"code": 127, "out": "", "err": str(error), "seconds": 0.0}

    threads = [threading.Thread(target=ask, args=(name, p["shell"], p["timeout_s"], p.get("stdin", "")), daemon=True)
               for name, p in request["probes"].items()]
    for thread in threads:
        thread.start()
    for thread, p in zip(threads, request["probes"].values()):
        thread.join(p["timeout_s"] + 5)
    # a process in uninterruptible sleep survives even SIGKILL
    gone: dict[str, object] = {"code": None, "out": "", "err": "", "seconds": 0.0}
    sys.stdout.write(json.dumps({name: answers.get(name, gone) for name in request["probes"]}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # do not wait for a thread that hangs with its process


if __name__ == "__main__":
    main()
