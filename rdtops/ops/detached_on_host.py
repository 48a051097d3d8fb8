"""Far side: start a script detached, once; tell of it; end it. Standard library, Python 3.8.

Requests (one JSON line each), answers (one JSON line each):
    {"op": "submit", "script", "session", "tag", "launcher", "within_s"} -> {"launcher": str, "already": bool}
        | {"problem": str}   launcher: auto, tmux or setsid
    {"op": "states", "jobs": [[name, folder, tag]]}  -> {"states": {name: {"alive", "exit", "launched"}}}
    {"op": "stop", "folder", "tag", "grace_s"}       -> {"left": [pids]}
The script writes `pid starttime boot_id` into `process` beside itself when it begins, and its exit code into `exit`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Callable

from rdtops.contract import liveness
from rdtops.contract.fields import loads
from rdtops.contract.files import text_of
from rdtops.contract.kin import carrying, end
from rdtops.contract.locks import alone
from rdtops.remote.far.detach import chosen, detach, window

PATIENCE_S = 20.0  # beyond what another start may take
STALE = ("process", "exit", "stop")


# --- submit ---

def submit(script: str, session: str, tag: str, launcher: str, within_s: float) -> dict[str, object]:
    folder = os.path.dirname(script)
    lock = os.path.join(folder, "submit.lock")
    with alone(lock, within_s + PATIENCE_S) as mine:  # of two laptops, one starts it; the other finds it running
        if not mine:
            return {"problem": f"another start of {script} does not come to its end: fuser -v {lock}"}
        if liveness.read(folder, tag).alive or carrying(tag):  # the second of a script that is slow to begin
            return {"launcher": launcher, "already": True}
        for name in STALE:
            if os.path.exists(os.path.join(folder, name)):
                os.remove(os.path.join(folder, name))
        used = chosen(launcher)
        problem = "" if used else "there is no tmux"
        if not problem:
            detach(script, tag, used)
        latest = time.monotonic() + within_s
        while not problem and not text_of(os.path.join(folder, "process")):
            if time.monotonic() > latest:
                problem = (f"{script} was started through {used} but did not begin within {within_s:g} s "
                           + text_of(os.path.join(folder, "start.log"))[-800:]).strip()
            time.sleep(0.05)
        if used == "tmux" and not problem:
            window(script, session)  # nothing depends on it
    return {"problem": problem} if problem else {"launcher": used, "already": False}


# --- states, stop ---

def states(jobs: list[list[str]]) -> dict[str, object]:
    return {"states": {name: state(folder, tag) for name, folder, tag in jobs}}


def state(folder: str, tag: str) -> dict[str, object]:
    life = liveness.read(folder, tag)
    return {"alive": life.alive, "exit": life.exit_text, "launched": life.launched}


def stop(folder: str, tag: str, grace_s: float) -> dict[str, object]:
    """All are asked, and what is left after the grace is killed."""
    liveness.ask_to_stop(folder)
    return {"left": [process.pid for process in end(lambda: carrying(tag), leave_s=grace_s).left]}


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    operations: dict[str, Callable[..., dict[str, object]]] = {
        "submit": submit, "states": states, "stop": stop}
    answer = operations[request.pop("op")](**request)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
