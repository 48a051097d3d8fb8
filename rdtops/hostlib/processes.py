"""Processes as /proc shows them: by the name that one has for ever (pid, start time, boot), by the tag that all of a
run carry in their environment, by their rank. Standard library, Python 3.8: far-side programs bring it along."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rdtops.hostlib.fields import decimal
from rdtops.hostlib.files import text_of

TRAINER = "rdtops.trainer.train"
# they name the trainer in their arguments, too
STARTERS = frozenset(("accelerate.commands.launch", "torch.distributed.run", "rdtops.supervisor"))


def boot_id() -> str:
    return text_of("/proc/sys/kernel/random/boot_id").strip()


def stat_of(pid: int) -> list[str]:
    """The words of /proc/PID/stat from the third on: state, parent and, as number 19, the start time in ticks since
    boot. Empty for one that is gone."""
    return text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before it may hold anything


def start_time(pid: int) -> str:
    """The kernel's start time of a living process, '' for one that is gone or a zombie.

    A zombie with more than one thread lives: only its first thread has ended, and the others hold its files and ports.
    """
    stat = stat_of(pid)
    return stat[19] if len(stat) > 19 and (stat[0] not in "ZX" or int(stat[17]) > 1) else ""


def name_of(pid: int) -> str:
    """`pid starttime boot_id`, as the file `process` of a run holds it."""
    return f"{pid} {start_time(pid) or 0} {boot_id()}"


def is_alive(process: str) -> bool:
    """`pid starttime boot_id` still names a living process."""
    words = process.split()
    pid = decimal(words[0]) if len(words) == 3 else None
    return pid is not None and words[2] == boot_id() and start_time(pid) == words[1]


def environment(pid: int) -> list[str]:
    """NAME=value of each variable it was started with; none where we may not look."""
    return text_of(f"/proc/{pid}/environ").split("\0")


def own() -> list[int]:
    """Our user's processes but this one, zombies too: they have neither environment nor files."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == os.geteuid():
                found.append(int(name))
        except OSError:
            continue
    return found


def carrying(tag: str) -> list[int]:
    """Our living processes with `NAME=value` in their environment, whatever session or parent they have."""
    return [pid for pid in own() if tag in environment(pid) and start_time(pid)]


def lineage() -> set[int]:
    """This process and those it descends from."""
    found: set[int] = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        stat = stat_of(pid)
        pid = int(stat[1]) if stat else 0
    return found


def rank_of(pid: int) -> int | None:
    """Of a process that runs the trainer itself, 0 where it runs alone; None for launchers, loaders and shells."""
    words = text_of(f"/proc/{pid}/cmdline").split("\0")
    if TRAINER not in words or STARTERS & set(words):
        return None
    ranks = [v[5:] for v in environment(pid) if v.startswith("RANK=")]
    return int(ranks[0]) if ranks and ranks[0].isdigit() else 0


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
