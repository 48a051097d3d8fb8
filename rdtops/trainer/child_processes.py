"""Child processes of the trainer: loader workers, simulators, readers of damaged files, and what libraries start.

They never decide how their parent ends. Whatever one does (it hangs in a driver, waits for a disk, was stopped), it is
killed and not waited for, and where its parent is killed the kernel kills it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from rdtops.hostlib import processes
from rdtops.hostlib.files import text_of

# these ask a training to stop: a launcher or `inv stop`; Slurm before a time limit; Ctrl-C; a terminal that closes
STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
OUTLIVES = "RDTOPS_OUTLIVES"  # a variable of child processes that end by themselves, and have data to send before
RESOURCE_TRACKER = "multiprocessing.resource_tracker"  # ends with the last of its users, and removes their semaphores
PR_SET_PDEATHSIG = 1  # of prctl(2)


@contextmanager
def shielded() -> Iterator[None]:
    """Block in every child process that is started within the signals that ask a training to stop. A terminal, a
    scheduler or a launcher may send them to every process of a run, and a worker must not go before the step that it
    feeds."""
    resource_tracker.ensure_running()  # unblocks signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends: it may be stopped or hang by then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent and not parent.is_alive():  # it ended before the call
        os._exit(1)


def kill_workers() -> None:
    """Kill the workers of multiprocessing. Do not wait for them."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for each loader worker killed
    for child in multiprocessing.active_children():
        child.kill()


def kill_all() -> None:
    """Kill the children of this process, and theirs. Do not wait for them."""
    kill_workers()
    for pid in _descendants(os.getpid()):
        if not _ends_by_itself(pid):
            processes.send([pid], signal.SIGKILL)


def _ends_by_itself(pid: int) -> bool:
    return f"{OUTLIVES}=1" in processes.environment(pid) or RESOURCE_TRACKER in text_of(f"/proc/{pid}/cmdline")


def _descendants(pid: int) -> list[int]:
    children = defaultdict(list)
    for one in processes.own():
        if stat := processes.stat_of(one):
            children[int(stat[1])].append(one)
    found = list(children[pid])
    for one in found:  # grows
        found += children[one]
    return found
