"""Host program: list the releases and their users, remove old ones, roll back. Standard library, Python 3.8, one file.

Requests (one JSON line each), answers (one JSON line each):
    {"op": "list", "workspace"}                  -> {"releases": [newest first: {"name", "deployed_s", "users"}],
                                                     "rolled_back": {"to", "before", "by", "time_s"} or null}
    {"op": "settle", "workspace", "name", "keep"} -> {"removed": [names]}   after a deploy of `name`
    {"op": "roll_back", "workspace", "to", "before", "by"} -> {}
`.deployed` in the workspace has a line for every deploy, `.rolled-back` exists from a rollback to the next deploy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from typing import Any, Callable

from rdtops.hostlib.checkpoints import ls
from rdtops.hostlib.fields import loads, number, table, text
from rdtops.hostlib.files import append_line, text_of, write_whole
from rdtops.hostlib.locks import LAUNCHES, alone

PATIENCE_S = 60.0
FORGOTTEN_S = 86400.0  # of an abandoned upload
DEPLOYED, ROLLED_BACK = ".deployed", ".rolled-back"
INCOMING, REMOVING = ".incoming-", ".removing-"


def listed(workspace: str) -> dict[str, Any]:
    root = os.path.join(workspace, "releases")
    used = users(workspace)
    names = [n for n in ls(root) if not n.startswith(".") and os.path.exists(os.path.join(root, n, "snapshot.json"))]
    times = deployed_s(workspace)
    found = [{"name": n, "deployed_s": times.get(n) or os.path.getmtime(os.path.join(root, n, "snapshot.json")),
              "users": used.get(n, [])} for n in names]
    return {"releases": sorted(found, key=lambda r: (-float(r["deployed_s"]), r["name"])),
            "rolled_back": values_of(os.path.join(workspace, ROLLED_BACK)) or None}


def settle(workspace: str, name: str, keep: int) -> dict[str, Any]:
    """Record `name` as the newest, end any rollback, and remove unused old releases, except the newest `keep`."""
    root = os.path.join(workspace, "releases")
    append_line(os.path.join(workspace, DEPLOYED), f"{time.time():.3f} {name}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(workspace, ROLLED_BACK))
    launches = os.path.join(workspace, "runs", LAUNCHES)
    with alone(launches, PATIENCE_S) as mine:  # no launch may begin with a release that is being removed
        surplus = [r["name"] for r in listed(workspace)["releases"][keep:] if not r["users"]] if mine else []
        for old in surplus:
            os.rename(os.path.join(root, old), os.path.join(root, REMOVING + old))
    forget(root, INCOMING + name)
    return {"removed": surplus}


def roll_back(workspace: str, **record: Any) -> dict[str, Any]:
    write_whole(os.path.join(workspace, ROLLED_BACK), json.dumps({**record, "time_s": round(time.time(), 3)}))
    return {}


# --- who uses what ---

def users(workspace: str) -> dict[str, list[str]]:
    """Return, for each release, the runs and evaluations of it that have not ended, and the processes in its folder."""
    found: dict[str, list[str]] = {}
    runs = os.path.join(workspace, "runs")
    for run in ls(runs):
        folder = os.path.join(runs, run)
        add(found, folder, "config.json", run)
        for name in ls(os.path.join(folder, "eval")):
            add(found, os.path.join(folder, "eval", name), "eval.json", f"{run}/{name}")
    root = os.path.join(os.path.realpath(workspace), "releases") + os.sep
    for pid in (n for n in os.listdir("/proc") if n.isdigit()):
        with contextlib.suppress(OSError):
            place = os.readlink(f"/proc/{pid}/cwd")
            if place.startswith(root):
                found.setdefault(place[len(root):].split(os.sep)[0], []).append(f"process {pid}")
    return found


def add(found: dict[str, list[str]], folder: str, spec: str, user: str) -> None:
    """Add a run that has no exit code: it may be started again, even after a reboot, with `sh launch.sh`."""
    if os.path.exists(os.path.join(folder, "exit")):
        return
    release = os.path.basename(text(values_of(os.path.join(folder, spec)).get("release")))
    if release:
        found.setdefault(release, []).append(user)


# --- files ---

def deployed_s(workspace: str) -> dict[str, float]:
    """Return when each release was last deployed."""
    found: dict[str, float] = {}
    for line in text_of(os.path.join(workspace, DEPLOYED)).splitlines():
        with contextlib.suppress(ValueError):
            stamp, _, name = line.partition(" ")
            found[name] = number(float(stamp)) or 0.0
    return found


def values_of(path: str) -> dict[str, Any]:
    """Return the JSON object in a file; {} where there is none."""
    try:
        return table(loads(text_of(path)))
    except ValueError:
        return {}


def forget(root: str, mine: str) -> None:
    """Delete the releases to be removed, and uploads abandoned long ago. `mine` is the upload of this deploy."""
    for name in ls(root):
        path = os.path.join(root, name)
        with contextlib.suppress(OSError):
            is_old = time.time() - os.path.getmtime(path) > FORGOTTEN_S
            if name.startswith(REMOVING) or (name.startswith(INCOMING) and name != mine and is_old):
                shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "list": listed, "settle": settle, "roll_back": roll_back}
    sys.stdout.write(json.dumps(operations[request.pop("op")](**request)) + "\n")


if __name__ == "__main__":
    main()
