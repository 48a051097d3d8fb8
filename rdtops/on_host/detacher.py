"""Detacher: start a script exactly once so that it outlives the connection; return its state; end it. Standard library,
Python 3.8. The script writes `pid starttime boot_id` into `process` beside itself when it begins, and its exit code
into `exit`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from typing import Any

from rdtops.hostlib import liveness, processes
from rdtops.hostlib.fields import loads, rows
from rdtops.hostlib.files import text_of
from rdtops.hostlib.locks import alone
from rdtops.hostlib.processes import carrying

PATIENCE_S = 20.0  # beyond the time of another start of the same script
LEAVE_S = 10.0  # for the parents of the ranks, which end after them and write how they ended
STALE = ("process", "exit", "stop")


# --- start ---

def submit(script: str, session: str, tag: str, launcher: str, within_s: float) -> dict[str, Any]:
    """Start a script exactly once: of several simultaneous requests one starts it, and the others find it running."""
    folder = os.path.dirname(script)
    lock = os.path.join(folder, "submit.lock")
    with alone(lock, within_s + PATIENCE_S) as mine:
        if not mine:
            return {"problem": "busy", "lock": lock}
        if liveness.read(folder, tag).alive or carrying(tag):  # `carrying`: for a script that is slow to begin
            return {"launcher": launcher, "note": "", "already": True}
        for name in STALE:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, name))
        return {**begin(script, session, tag, launcher, within_s), "already": False}


def begin(script: str, session: str, tag: str, launcher: str, within_s: float) -> dict[str, Any]:
    """Start a script, and wait until it writes a new `process`. Return {"launcher": tmux or setsid, "note"}, or
    {"in_the_way": holders of the lease}, or {"problem", ...}. `launcher` may be auto."""
    folder = os.path.dirname(script)
    process, refusal = os.path.join(folder, "process"), os.path.join(folder, "refused")
    before = text_of(process)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(refusal)
    used = chosen(launcher)
    if not used:
        return {"problem": "launcher", "said": "tmux is not installed"}
    detach(script, tag, used)
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        if text_of(process) not in ("", before):
            refused = window(script, session) if used == "tmux" else ""
            note = f"tmux failed ({refused}): the training runs without a tmux window"
            return {"launcher": "setsid", "note": note} if refused else {"launcher": used, "note": ""}
        if holders := refused_by(refusal):
            return {"in_the_way": holders}
        time.sleep(0.05)
    return {"problem": "silent", "launched_by": used, "said": text_of(os.path.join(folder, "start.log"))[-800:]}


def chosen(launcher: str) -> str:
    """Return tmux or setsid: `auto` is tmux where it is installed, else setsid; '' for a tmux that is missing."""
    has_tmux = shutil.which("tmux") is not None
    used = launcher if launcher != "auto" else "tmux" if has_tmux else "setsid"
    return "" if used == "tmux" and not has_tmux else used


def detach(script: str, tag: str, launcher: str) -> None:
    """Start a script in its own session, so that it outlives any terminal, connection and tmux server."""
    log = open(os.path.join(os.path.dirname(script), "start.log"), "wb")  # noqa: SIM115  # open until the script ends
    with log:
        subprocess.Popen(["env", "RDTOPS_LAUNCHER=" + launcher, tag, "sh", script], stdin=subprocess.DEVNULL,
                         stdout=log, stderr=log, start_new_session=True, cwd="/")


def window(script: str, session: str) -> str:
    """Open a tmux window on the log, which lives as long as the script. Return '', else tmux's error. The session has
    its own tmux server: an older one may be of another version."""
    folder, name = os.path.split(script)
    log = "train.log" if name == "launch.sh" else "eval.log"
    pid = text_of(os.path.join(folder, "process")).split()[0]
    words = ["tail", "-n", "200", "-F", "--pid=" + pid, os.path.join(folder, log)]
    line = "exec " + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    try:
        done = subprocess.run(["tmux", "-L", socket_of(session), "-f", "/dev/null", "new-session", "-d", "-x", "200",
                               "-y", "50", "-s", session, line],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    message = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return (message or f"exit {done.returncode}") if done.returncode else ""


def socket_of(session: str) -> str:
    return "rdtops-" + session[-4:]


def refused_by(refusal: str) -> list[dict[str, Any]]:
    """Return the holders of the lease, where a new file says that it is taken."""
    try:
        return rows(loads(text_of(refusal)))
    except ValueError:
        return []


# --- states ---

def states(jobs: list[list[str]]) -> dict[str, Any]:
    return {"states": {name: state(folder, tag) for name, folder, tag in jobs}}


def state(folder: str, tag: str) -> dict[str, Any]:
    life = liveness.read(folder, tag)
    return {"alive": life.alive, "exit": life.exit_text, "launched": life.launched}


# --- stop ---

def stop(folder: str, tag: str, grace_s: float) -> dict[str, Any]:
    """Ask the ranks first, which save and end; then their parents; then kill what is left. With a grace of 0 kill
    without asking."""
    liveness.ask_to_stop(folder)
    done = processes.end(lambda: carrying(tag), first=lambda found: processes.ranks_of(found) or found, grace_s=grace_s,
                         leave_s=LEAVE_S if grace_s else 0.0)
    return {"left": [process.pid for process in done.left]}
