"""Far side: what runs there are, what became of them, and how to end one. Standard library, Python 3.8, one file.

Requests (one JSON line each), answers (one JSON line each):
    {"op": "list", "workspace": str}              -> {"runs": [facts of each run, oldest first]}
    {"op": "read", "path": str, "offset": int}    -> {"size": int, "text": str}  at most 1 MiB from offset
    {"op": "stop", "workspace", "run_id", "grace_s"} -> {"ended": [pids], "killed": [pids]}
    {"op": "checkpoints", "workspace", "run_id"}  -> {"checkpoints": [...], "unfinished": [names]}
Facts only; what they mean is decided on the laptop, in rdtops.contract.run.state_of.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from typing import Callable

PIECE = 1 << 20
TAIL = 1 << 16


def text_of(path: str, limit: int = PIECE) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def tail_of(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def start_time(pid: int) -> str:
    """The kernel's start time of a living process, '' for one that is gone or a zombie."""
    stat = text_of(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def is_alive(process: str) -> bool:
    """`pid starttime boot_id`, as launch.sh wrote it, still names a living process."""
    words = process.split()
    if len(words) != 3 or not words[0].isdigit():
        return False
    same_boot = text_of("/proc/sys/kernel/random/boot_id").strip() == words[2]
    return same_boot and start_time(int(words[0])) == words[1]


def members(run_id: str) -> list[int]:
    """Our processes that carry the run's tag in their environment, whatever session or parent they have."""
    tag = f"RDTOPS_RUN={run_id}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.getuid():
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                if tag in file.read().split(b"\0") and start_time(int(name)):
                    found.append(int(name))
        except OSError:
            continue
    return found


def is_rank(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(v.startswith(b"LOCAL_RANK=") for v in file.read().split(b"\0"))
    except OSError:
        return False


def facts(root: str, run_id: str) -> dict[str, object]:
    folder = os.path.join(root, run_id)
    exit_text = text_of(os.path.join(folder, "exit")).strip()
    journal = os.path.join(folder, "journal.jsonl")
    alive = is_alive(text_of(os.path.join(folder, "process")))
    return {"run_id": run_id, "config": text_of(os.path.join(folder, "config.json")),
            "exit_code": int(exit_text) if exit_text.lstrip("-").isdigit() else None,
            "alive": alive, "launched": os.path.exists(os.path.join(folder, "process")),
            "stop_requested": os.path.exists(os.path.join(folder, "stop")),
            "journal_head": text_of(journal, 4096), "journal_tail": tail_of(journal),
            "log_tail": tail_of(os.path.join(folder, "train.log"))[-4000:],
            "journal_size": os.path.getsize(journal) if os.path.exists(journal) else 0}


def list_runs(workspace: str) -> dict[str, object]:
    root = os.path.join(workspace, "runs")
    names = sorted(n for n in os.listdir(root) if not n.startswith(".")) if os.path.isdir(root) else []
    return {"runs": [facts(root, name) for name in names if os.path.isdir(os.path.join(root, name))]}


def read(path: str, offset: int) -> dict[str, object]:
    if not os.path.exists(path):
        return {"size": 0, "text": ""}
    with open(path, "rb") as file:
        file.seek(offset)
        return {"size": os.path.getsize(path), "text": file.read(PIECE).decode("utf-8", "surrogateescape")}


def checkpoints(workspace: str, run_id: str) -> dict[str, object]:
    folder = os.path.join(workspace, "runs", run_id, "checkpoints")
    whole, unfinished = [], []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        try:
            with open(os.path.join(folder, name, "manifest.json")) as file:
                manifest = json.load(file)
            rows = manifest["files"]
            fits = all(os.path.getsize(os.path.join(folder, name, r["path"])) == r["size_bytes"] for r in rows)
            lines = "".join("{md5}  {path}\n".format(**r) for r in sorted(rows, key=lambda r: r["path"]))
            fits = fits and hashlib.md5(lines.encode()).hexdigest() == manifest["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            fits = False
        if fits and name.startswith("step_") and name[5:].isdigit():
            whole.append({"name": name, "step": int(name[5:]), "path": os.path.join(folder, name),
                          "size_bytes": sum(r["size_bytes"] for r in rows), "digest": manifest["digest"],
                          "heldout_loss": heldout_loss(os.path.join(folder, name))})
        else:
            unfinished.append(name)
    return {"checkpoints": whole, "unfinished": unfinished}


def heldout_loss(checkpoint: str) -> float | None:
    """As the trainer measured it; None where it did not, or where the number is none."""
    try:
        loss = float(json.loads(text_of(os.path.join(checkpoint, "trainer.json")))["heldout_loss"])
    except (ValueError, KeyError, TypeError):
        return None
    return loss if loss - loss == 0 else None


def stop(workspace: str, run_id: str, grace_s: float) -> dict[str, object]:
    """Ask the ranks first, which save and leave; then everybody; then end what is left."""
    folder = os.path.join(workspace, "runs", run_id)
    with open(os.path.join(folder, "stop"), "w") as file:
        file.write(f"{time.time():.0f}\n")
    with open(os.path.join(folder, "journal.jsonl"), "a") as file:
        file.write(json.dumps({"kind": "stop_requested", "time_s": round(time.time(), 3), "by": "inv stop"}) + "\n")
    every = members(run_id)
    ranks = [pid for pid in every if is_rank(pid)]
    send(ranks or every, signal.SIGTERM)
    wait_for(run_id, ranks or every, grace_s)
    send(members(run_id), signal.SIGTERM)
    wait_for(run_id, members(run_id), 10)
    killed = members(run_id)
    send(killed, signal.SIGKILL)
    wait_for(run_id, killed, 5)
    return {"ended": every, "killed": killed, "left": members(run_id)}


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def wait_for(run_id: str, pids: list[int], limit_s: float) -> None:
    end = time.time() + limit_s
    while time.time() < end and set(members(run_id)) & set(pids):
        time.sleep(0.2)


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline().decode())
    operations: dict[str, Callable[..., dict[str, object]]] = {
        "list": list_runs, "read": read, "stop": stop, "checkpoints": checkpoints}
    answer = operations[request.pop("op")](**request)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
