"""Far side: start a script so that it outlives the connection."""

from __future__ import annotations

import os
import shutil
import subprocess

from rdtops.hostlib.files import text_of


def chosen(launcher: str) -> str:
    """`auto` is tmux where it is, else setsid; '' for a tmux that is not there."""
    has_tmux = shutil.which("tmux") is not None
    used = launcher if launcher != "auto" else "tmux" if has_tmux else "setsid"
    return "" if used == "tmux" and not has_tmux else used


def detach(script: str, tag: str, launcher: str) -> None:
    """In a session of its own, which no terminal, connection or tmux server can take with it."""
    said = open(os.path.join(os.path.dirname(script), "start.log"), "wb")  # noqa: SIM115  # the script's until it ends
    with said:
        subprocess.Popen(["env", "RDTOPS_LAUNCHER=" + launcher, tag, "sh", script], stdin=subprocess.DEVNULL,
                         stdout=said, stderr=said, start_new_session=True, cwd="/")


def window(script: str, session: str) -> str:
    """A window on the log, while the script lives; '' when tmux opened it. The server is this session's own: an older
    one may be of another version."""
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
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return (said or f"exit {done.returncode}") if done.returncode else ""


def socket_of(session: str) -> str:
    return "rdtops-" + session[-4:]
