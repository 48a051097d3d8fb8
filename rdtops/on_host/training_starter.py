"""Host program: start exactly one training, and the other operations of tmux and setsid. Standard library, Python 3.8.

One request is one launch: whatever happens to the laptop meanwhile, the launch is complete or was not begun.
Requests (one JSON line each), answers (one JSON line each):
    {"op": "train", "workspace", "run_id", "release", "key": {...}, "again": bool, "files": {name: text},
     "secrets": {"path", "text"} or null, "start": {as of submit}}
        -> {"launcher": str, "note": str}   it is running
         | {"duplicate": run_id, "state": "running" or "prepared"}   a run of the same request exists; nothing was done
         | {"in_the_way": [holders]}   of the lease
         | {"problem": str, ...}
    {"op": "submit", "script", "session", "tag", "launcher", "within_s"}
        -> {"launcher": str, "note": str, "already": bool}, or in_the_way or problem
    {"op": "states", "jobs": [[name, folder, tag]]} -> {"states": {name: {"alive", "exit", "launched"}}}
    {"op": "stop", "folder", "tag", "grace_s"}      -> {"left": [pids]}
    {"op": "secrets", "path", "text"}               -> {}   for a script that another launcher starts
`launcher` is auto, tmux or setsid; with '' `train` only prepares the run folder: a job is submitted then.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any, Callable, Mapping

from rdtops.hostlib import liveness
from rdtops.hostlib.checkpoints import ls
from rdtops.hostlib.fields import loads, table, text
from rdtops.hostlib.files import text_of, write_whole
from rdtops.hostlib.locks import LAUNCHES, alone
from rdtops.on_host.detacher import begin, states, stop, submit

PATIENCE_S = 60.0  # another launch of this workspace may take so long
PREPARING = ".preparing-"


# --- exactly one ---

def train(workspace: str, run_id: str, release: str, key: dict[str, object], again: bool, files: dict[str, str],
          secrets: dict[str, str] | None, start: dict[str, Any]) -> dict[str, Any]:
    runs = os.path.join(workspace, "runs")
    with alone(os.path.join(runs, LAUNCHES), PATIENCE_S) as mine:
        if not mine:
            return {"problem": "busy", "lock": os.path.join(runs, LAUNCHES)}
        forget_half_made(runs)
        duplicate = duplicate_of(runs, key, run_id, again)
        if duplicate:
            return duplicate
        if not os.path.exists(os.path.join(release, "snapshot.json")):
            return {"problem": "release"}
        folder = os.path.join(runs, run_id)
        before = {name: text_of(os.path.join(folder, name)) for name in files}
        is_new = make_folder(runs, run_id, files)
        if secrets:
            keep(**secrets)
        answer = begin(**start) if start["launcher"] else {"launcher": "", "note": ""}
        if "in_the_way" in answer:  # undo the request; not for a script that is only slow, which still runs
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            for name, content in before.items() if not is_new else ():
                write_whole(os.path.join(folder, name), content)
        return answer


def request_key(config: Mapping[str, object]) -> dict[str, object]:
    """Return what two runs share exactly when they are the same training, from what their config.json says: settings,
    code and assets. A snapshot's name ends in the digest of its code. Up to 97e30e5 that was the digest of the whole
    tree: such a run is a duplicate of what is launched from its own release (`inv rollback`), and of nothing else."""
    return {"train_digest": config.get("train_digest"), "code": text(config.get("snapshot")).rpartition("-")[2],
            "assets": config.get("assets")}


def duplicate_of(runs: str, key: dict[str, object], run_id: str, again: bool) -> dict[str, object] | None:
    """Return the run of the same request that has not ended; or this run, when it is running already."""
    if state_of(os.path.join(runs, run_id)) == "running":
        return {"duplicate": run_id, "state": "running"}
    for name in reversed(ls(runs)) if not again else ():
        if name != run_id and not name.startswith((".", "00000000-")) and key_of(os.path.join(runs, name)) == key:
            state = state_of(os.path.join(runs, name))
            if state:
                return {"duplicate": name, "state": state}
    return None


def key_of(folder: str) -> dict[str, object]:
    try:
        return request_key(table(loads(text_of(os.path.join(folder, "config.json")))))
    except ValueError:
        return {}


def state_of(folder: str) -> str:
    """Return running or prepared, '' when it has ended."""
    life = liveness.read(folder, f"{liveness.RUN}={os.path.basename(folder)}")
    if life.alive:
        return "running"
    return "" if life.launched or life.exit_text else "prepared"


def make_folder(runs: str, run_id: str, files: dict[str, str]) -> bool:
    """Make the run's folder with all its files or none. Return whether it is new."""
    folder = os.path.join(runs, run_id)
    is_new = not os.path.isdir(folder)
    target = os.path.join(runs, PREPARING + run_id) if is_new else folder
    os.makedirs(os.path.join(target, "checkpoints"), exist_ok=True)
    for name, content in files.items():
        write_whole(os.path.join(target, name), content)
    if is_new:
        os.rename(target, folder)
    return is_new


def forget_half_made(runs: str) -> None:
    for name in os.listdir(runs):
        if name.startswith(PREPARING):  # left by a killed launch: we hold the lock
            shutil.rmtree(os.path.join(runs, name), ignore_errors=True)


# --- secrets ---

def keep(path: str, text: str) -> dict[str, object]:
    """Write secrets to a file that only its owner can read."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    os.chmod(os.path.dirname(path), 0o700)
    write_whole(path, text, 0o600)
    return {}


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "train": train, "submit": submit, "states": states, "stop": stop, "secrets": keep}
    answer = operations[request.pop("op")](**request)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
