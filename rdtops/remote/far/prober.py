"""Far side: run many small commands at once, each with its own time limit.

Request (one JSON line): {"probes": {name: {"shell": str, "timeout_s": float}}}
Answer  (one JSON line): {name: {"code": int or null (timed out), "out": str, "err": str, "seconds": float}}
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

LIMIT = 200000  # characters kept of one output; a probe that prints more is broken and its head says how


def probe(shell: str, timeout_s: float) -> dict[str, object]:
    start = time.monotonic()
    process = subprocess.Popen(["sh", "-c", shell], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = process.communicate(timeout=timeout_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too, else they keep the pipes open
        out, err, code = b"", b"", None
    return {"code": code, "out": out.decode("utf-8", "replace")[:LIMIT], "err": err.decode("utf-8", "replace")[:LIMIT],
            "seconds": round(time.monotonic() - start, 3)}


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline().decode())
    answers: dict[str, object] = {}

    def ask(name: str, shell: str, timeout_s: float) -> None:
        try:
            answers[name] = probe(shell, timeout_s)
        except OSError as error:
            answers[name] = {"code": 127, "out": "", "err": str(error), "seconds": 0.0}

    threads = [threading.Thread(target=ask, args=(name, p["shell"], p["timeout_s"]), daemon=True)
               for name, p in request["probes"].items()]
    for thread in threads:
        thread.start()
    for thread, p in zip(threads, request["probes"].values()):
        thread.join(p["timeout_s"] + 5)
    # a process in uninterruptible sleep outlives even SIGKILL
    gone: dict[str, object] = {"code": None, "out": "", "err": "", "seconds": 0.0}
    sys.stdout.write(json.dumps({name: answers.get(name, gone) for name in request["probes"]}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a thread that hangs with its process must not keep us


if __name__ == "__main__":
    main()
