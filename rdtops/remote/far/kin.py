"""Far side: the processes of a run, by the name that one has for ever (pid, start time, boot) or by the tag that all
carry in their environment. Only those of our own user."""

from __future__ import annotations

import os
import time
from typing import Callable

PIECE = 1 << 20


def text_of(path: str, limit: int = PIECE) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
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


def carrying(tag: str) -> list[int]:
    """Our living processes with `NAME=value` in their environment, whatever session or parent they have."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.getuid():
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                if tag.encode() in file.read().split(b"\0") and start_time(int(name)):
                    found.append(int(name))
        except OSError:
            continue
    return found


def is_rank(pid: int) -> bool:
    """The trainer itself, with accelerate's variables or alone; not what starts it, whose arguments name it too."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if any(v.startswith(b"LOCAL_RANK=") for v in file.read().split(b"\0")):
                return True
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return b"rdtops.trainer.train" in words and not {b"accelerate.commands.launch", b"rdtops.supervisor"} & set(words)


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def wait_for(living: Callable[[], list[int]], pids: list[int], limit_s: float) -> None:
    latest = time.time() + limit_s
    while time.time() < latest and set(living()) & set(pids):
        time.sleep(0.2)
