"""Far side: begin exactly one training, or start a script detached. Standard library, Python 3.8, one file.

One request is one launch: whatever happens to the laptop meanwhile, what was asked is done or was not begun.
Requests (one JSON line each), answers (one JSON line each):
    {"op": "train", "workspace", "run_id", "release", "key": {...}, "again": bool, "files": {name: text},
     "start": as below}
        -> {"launcher": str, "note": str}   it runs now
         | {"duplicate": run_id, "state": "running" or "prepared"}   the same was requested before, so nothing was done
         | {"in_the_way": [holders]}   of the lease
         | {"problem": str, ...}
    {"op": "start", "start": {"script", "session", "tag", "launcher", "within_s", "secrets": {"path", "text"} or null}}
        -> launcher, or problem
    {"op": "secrets", "secrets": {"path", "text"}} -> {}   for a script that somebody else starts
`launcher` is auto, tmux or setsid; with '' all is made ready and nothing started: a cluster's job is submitted then.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from typing import Any, Mapping

from rdtops.contract.checkpoints import ls
from rdtops.contract.fields import loads, rows, table, text
from rdtops.contract.files import text_of, write_whole
from rdtops.contract.kin import is_alive
from rdtops.contract.locks import LAUNCHES, alone
from rdtops.remote.far.detach import chosen, detach, window

PATIENCE_S = 60.0  # another launch of this workspace may take so long
PREPARING = ".preparing-"


# --- exactly one ---

def train(workspace: str, run_id: str, release: str, key: dict[str, object], again: bool, files: dict[str, str],
          start: dict[str, Any]) -> dict[str, object]:
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
        answer = begin(**start)
        if "in_the_way" in answer:  # as if it had not been asked; a script that is only slow would still be at work
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
    """Return the run of the same request that has not ended; or this run, when it lives already."""
    if is_alive(text_of(os.path.join(runs, run_id, "process"))):
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
    """'' when it has ended."""
    process = text_of(os.path.join(folder, "process"))
    if is_alive(process):
        return "running"
    return "" if process or os.path.exists(os.path.join(folder, "exit")) else "prepared"


def make_folder(runs: str, run_id: str, files: dict[str, str]) -> bool:
    """The run's folder with all its files or none; whether it is new."""
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
        if name.startswith(PREPARING):  # nobody is at it: we hold the lock
            shutil.rmtree(os.path.join(runs, name), ignore_errors=True)


# --- detached ---

def begin(script: str, session: str, tag: str, launcher: str, within_s: float,
          secrets: dict[str, str] | None) -> dict[str, object]:
    """Start the script so that it outlives the connection, and see that it lives: it writes a new `process`."""
    folder = os.path.dirname(script)
    process, refusal = os.path.join(folder, "process"), os.path.join(folder, "refused")
    before = text_of(process)
    if secrets:
        keep(**secrets)
    if not launcher:
        return {"launcher": "", "note": ""}
    with contextlib.suppress(FileNotFoundError):
        os.unlink(refusal)
    used = chosen(launcher)
    if not used:
        return {"problem": "launcher", "said": "there is no tmux"}
    detach(script, tag, used)
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        if text_of(process) not in ("", before):
            refused = window(script, session) if used == "tmux" else ""
            note = f"tmux refused ({refused}): there is no window, and the training runs without one"
            return {"launcher": "setsid", "note": note} if refused else {"launcher": used, "note": ""}
        if holders := refused_by(refusal):
            return {"in_the_way": holders}
        time.sleep(0.05)
    return {"problem": "silent", "launched_by": used, "said": text_of(os.path.join(folder, "start.log"))[-800:]}


def refused_by(refusal: str) -> list[dict[str, Any]]:
    """Who holds the lease, where a new file says that it is taken."""
    try:
        return rows(loads(text_of(refusal)))
    except ValueError:
        return []


def keep(path: str, text: str) -> dict[str, object]:
    """Secrets, for their owner alone to read."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    os.chmod(os.path.dirname(path), 0o700)
    write_whole(path, text, 0o600)
    return {}


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    op = request.pop("op")
    if op == "train":
        answer = train(**request)
    else:
        answer = begin(**request["start"]) if op == "start" else keep(**request["secrets"])
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
