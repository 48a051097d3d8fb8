"""Far side: start a script detached, once; tell of it; end it. Standard library, Python 3.8, one file.

Requests (one JSON line each), answers (one JSON line each):
    {"op": "submit", "script", "session", "tag", "launcher", "within_s"} -> {"launcher": str, "already": bool}
        | {"problem": str}   launcher: auto, tmux or setsid
    {"op": "states", "jobs": [[name, folder, tag]]}  -> {"states": {name: {"alive", "exit", "launched"}}}
    {"op": "stop", "folder", "tag", "grace_s"}       -> {"left": [pids]}
The script writes `pid starttime boot_id` into `process` beside itself when it begins, and its exit code into `exit`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from typing import Callable

from rdtops.remote.far.detach import detach, is_alive, text_of, window

STALE = ("process", "exit", "stop")


def is_living(pid: str) -> bool:
    """And no zombie."""
    return text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])


def members(tag: str) -> list[int]:
    """Our processes that carry the tag in their environment, whatever session or parent they have."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.stat(f"/proc/{name}").st_uid != os.getuid():
                    continue
                with open(f"/proc/{name}/environ", "rb") as file:
                    if tag.encode() in file.read().split(b"\0") and is_living(name):
                        found.append(int(name))
            except OSError:
                continue
    return found


# --- submit ---

def submit(script: str, session: str, tag: str, launcher: str, within_s: float) -> dict[str, object]:
    folder = os.path.dirname(script)
    with open(os.path.join(folder, "submit.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two laptops, one starts it; the other finds it running
        if is_alive(text_of(os.path.join(folder, "process"))) or members(tag):
            return {"launcher": launcher, "already": True}
        for name in STALE:
            if os.path.exists(os.path.join(folder, name)):
                os.remove(os.path.join(folder, name))
        used = launcher if launcher != "auto" else "tmux" if shutil.which("tmux") else "setsid"
        problem = "there is no tmux" if used == "tmux" and not shutil.which("tmux") else ""
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
    process = text_of(os.path.join(folder, "process"))
    code = text_of(os.path.join(folder, "exit")).strip()
    alive = is_alive(process) or (bool(process) and not code and bool(members(tag)))
    return {"alive": alive, "exit": code, "launched": bool(process)}


def stop(folder: str, tag: str, grace_s: float) -> dict[str, object]:
    """All are asked, and what is left after the grace is killed."""
    with open(os.path.join(folder, "stop"), "w") as file:
        file.write(f"{time.time():.0f}\n")
    for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        latest = time.monotonic() + limit_s
        if limit_s:
            send(members(tag), number)
        while members(tag) and time.monotonic() < latest:
            time.sleep(0.1)
    return {"left": members(tag)}


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline().decode())
    operations: dict[str, Callable[..., dict[str, object]]] = {
        "submit": submit, "states": states, "stop": stop}
    answer = operations[request.pop("op")](**request)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
