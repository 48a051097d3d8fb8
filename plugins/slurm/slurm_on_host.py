"""Host program of slurm: submit a job once, query jobs, end one. Standard library, Python 3.8.

Runs on the machine that has sbatch, squeue and scontrol. Requests and answers are one JSON line each:
    {"op": "submit", "folder", "name", "batch"}   -> {"id": str, "already": bool} or {"problem": str}
    {"op": "states", "jobs": [{"folder", "name"}]} -> {"states": {name: facts}}
    {"op": "stop", "folder", "name", "grace_s"}   -> {"left": bool, "problem": str}
Facts of a job: {"id", "state", "reason", "exit", "restarts", "start", "left", "nodes", "problem", "ended_note"}. The
laptop interprets them. `state` is Slurm's word; "" when there is no such job, with `problem` when Slurm did not answer.
The first answer that says how a job ended is saved beside it (slurm-end.json), since Slurm forgets.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable

from rdtops.api import fields, files, locks

RECORD, END = "slurm.json", "slurm-end.json"  # in the job's folder
STALE = ("exit", "stop", "process", "ended", "requeued", END)
LIVING = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
          "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD"}
QUEUE = "%i|%T|%r|%S|%L|%N|%j"
ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S*| on cluster \S+)?")  # as sbatch prints it
ASKED_S = 25  # when the controller is down, squeue tries for some seconds; when it hangs, for minutes


def run(*words: str, cwd: str | None = None) -> tuple[int, str, str]:
    try:
        done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=ASKED_S, check=False)
    except subprocess.TimeoutExpired:
        return -1, "", f"{words[0]} did not answer within {ASKED_S} s"
    except OSError as error:
        return 127, "", f"{words[0]}: {error.strerror}"
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def read(folder: str, name: str) -> dict[str, str]:
    """Read the strings of a JSON file; {} for a damaged one."""
    try:
        found = fields.table(fields.loads(files.text_of(os.path.join(folder, name))))
    except ValueError:
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def write(folder: str, name: str, values: dict[str, str]) -> None:
    files.write_whole(os.path.join(folder, name), json.dumps(values) + "\n")


def queue() -> tuple[list[dict[str, str]], str]:
    """Return the jobs of this user that Slurm still knows, ended ones too; and why it did not answer."""
    code, out, err = run("squeue", "-h", "-t", "all", "-u", str(os.getuid()), "-o", QUEUE)
    if code:
        return [], " ".join(err.split()) or f"squeue failed with exit code {code}"
    keys = ("id", "state", "reason", "start", "left", "nodes", "name")
    rows = [line.split("|", len(keys) - 1) for line in out.splitlines()]
    return [dict(zip(keys, row)) for row in rows if len(row) == len(keys)], ""


def living(rows: list[dict[str, str]], name: str) -> dict[str, str]:
    """Return the newest job of that name that is queued or running."""
    return newest([row for row in rows if row["name"] == name and row["state"] in LIVING])


def newest(rows: list[dict[str, str]]) -> dict[str, str]:
    return max(rows, key=lambda row: int(re.sub(r"\D.*", "", row["id"]) or 0), default={})


# --- submit ---

def submit(folder: str, name: str, batch: str) -> dict[str, object]:
    lock = os.path.join(folder, "slurm.lock")
    with locks.alone(lock, 2 * ASKED_S) as mine:  # only one of two laptops submits
        if not mine:
            return {"problem": f"another submission is in progress; find it with: fuser -v {lock}"}
        rows, problem = queue()
        if problem:
            return {"problem": problem}
        here = living(rows, name)
        if here:
            write(folder, RECORD, {"id": here["id"], "name": name})
            return {"id": here["id"], "already": True}
        for stale in STALE:
            forget(os.path.join(folder, stale))
        code, out, err = run("sbatch", "--parsable", batch, cwd=folder)
        number = job_id(out, code) or submitted(name, {row["id"] for row in rows})
        if not number:
            return {"problem": " ".join(err.split()) or f"sbatch failed with exit code {code}: {out[:100]!r}"}
        write(folder, RECORD, {"id": number, "name": name})
        return {"id": number, "already": False}


def job_id(out: str, code: int) -> str:
    """Return the job id that sbatch printed; '' where it failed, or printed more than that.

    >>> job_id("4711;hpc\\n", 0), job_id("Submitted batch job 4711\\n", 0), job_id("Welcome in 2026\\n4711\\n", 0)
    ('4711', '4711', '')
    """
    match = ID.fullmatch(out.strip())
    return match[1] if match and code == 0 else ""


def submitted(name: str, before: set[str]) -> str:
    """Return the id of the newest job of that name that was not there before; '' when there is none. A site's own
    sbatch may print anything, with any exit code: only the queue knows."""
    rows, _ = queue()
    return newest([row for row in rows if row["name"] == name and row["id"] not in before]).get("id", "")


def forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


# --- states ---

def states(jobs: list[dict[str, str]]) -> dict[str, object]:
    rows, problem = queue()
    return {"states": {job["name"]: facts(job["folder"], rows, problem) for job in jobs}}


def facts(folder: str, rows: list[dict[str, str]], problem: str) -> dict[str, str]:
    number = read(folder, RECORD).get("id", "")
    end = read(folder, END)
    if not number or end.get("id") == number:
        return end
    if problem:
        return {"id": number, "problem": problem}
    row = next((row for row in rows if row["id"] == number), {})
    if row and row["state"] in LIVING:
        return dict(row, restarts=detail(number).get("Restarts", "0"))
    found = ended(number, row)
    found["ended_note"] = files.text_of(os.path.join(folder, "ended"), 4096).strip()
    if found["state"]:
        write_if_possible(folder, END, found)
    return found


def ended(number: str, row: dict[str, str]) -> dict[str, str]:
    """Return how a job ended, by the controller or else by accounting; an empty state when neither knows."""
    known = detail(number) if row else {}
    if known:
        return {"id": number, "state": row["state"], "reason": known.get("Reason", ""), "nodes": row["nodes"],
                "exit": known.get("ExitCode", ""), "restarts": known.get("Restarts", "0")}
    code, out, _ = run("sacct", "-n", "-X", "-P", "-j", number, "-o", "State,ExitCode,NodeList")
    lines = [line for line in out.splitlines() if line.count("|") == 2] if code == 0 else []
    if lines:
        state, exit_code, nodes = lines[-1].split("|")
        return {"id": number, "state": state.split()[0], "reason": state, "exit": exit_code, "nodes": nodes}
    return {"id": number, "state": ""}


def detail(number: str) -> dict[str, str]:
    code, out, _ = run("scontrol", "-o", "show", "job", number)
    return dict(re.findall(r"(\w+)=(\S*)", out)) if code == 0 else {}


def write_if_possible(folder: str, name: str, values: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a full disk: the next call asks again
        write(folder, name, values)


# --- stop ---

def stop(folder: str, name: str, grace_s: float) -> dict[str, object]:
    """Send USR1 to the job's steps: the ranks save and exit, their launcher ignores it. Repeat it, since a starting
    rank has no handler yet. Then cancel the job."""
    rows, problem = queue()
    job = living(rows, name)
    if problem or not job:
        return {"left": bool(problem), "problem": problem}
    with contextlib.suppress(OSError):  # a full disk must not prevent the stop
        files.write_whole(os.path.join(folder, "stop"), f"{time.time():.0f}\n")
    if grace_s and job["state"] == "RUNNING":
        latest = time.time() + grace_s
        while time.time() < latest:
            run("scancel", "--signal=USR1", job["id"])
            if gone_within(name, min(15.0, latest - time.time())):
                return {"left": False, "problem": ""}
    code, _, err = run("scancel", job["id"])
    left = not gone_within(name, 60)  # KillWait is 30 s by default
    return {"left": left, "problem": " ".join(err.split()) if code else ""}


def gone_within(name: str, limit_s: float) -> bool:
    latest = time.time() + limit_s
    while True:
        rows, problem = queue()
        if not problem and not living(rows, name):
            return True
        if time.time() > latest:
            return False
        time.sleep(0.5)


def main() -> None:
    request = fields.loads(sys.stdin.buffer.readline())
    operations: dict[str, Callable[..., dict[str, object]]] = {
        "submit": submit, "states": states, "stop": stop}
    answer = operations[request.pop("op")](**request)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
