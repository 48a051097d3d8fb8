"""Far side: start a script so that it outlives the connection, and know whether it lives."""

from __future__ import annotations

import os
import subprocess


def text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def is_alive(process: str) -> bool:
    """`pid starttime boot_id`, as launch.sh wrote it, still names a living process."""
    words = process.split()
    if len(words) != 3 or text_of("/proc/sys/kernel/random/boot_id").strip() != words[2]:
        return False
    fields = text_of(f"/proc/{words[0]}/stat").rpartition(")")[2].split()
    return len(fields) > 19 and fields[0] != "Z" and fields[19] == words[1]


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
