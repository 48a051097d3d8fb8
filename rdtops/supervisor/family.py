"""Processes of a run, without its supervisor and the ancestors of the supervisor."""

from __future__ import annotations

from rdtops.hostlib import liveness, processes
from rdtops.hostlib.files import text_of
from rdtops.hostlib.processes import Ended, Process

WORKER = "multiprocessing.spawn"  # in the command line of a loader worker


def members(run_id: str) -> list[Process]:
    """Return the running processes of the run that belong to this user."""
    return processes.processes_of(_found(run_id))


def ranks(run_id: str) -> list[Process]:
    return processes.ranks_of(members(run_id))


def workers(run_id: str) -> list[Process]:
    """Return the loader workers, first those that neither run nor wait for an event: stopped, or waiting for a disk."""
    found = [process for process in members(run_id)
             if process.rank is None and WORKER in text_of(f"/proc/{process.pid}/cmdline")]
    return sorted(found, key=lambda process: process.state in ("R", "S"))


def end(run_id: str, *, grace_s: float = 0.0) -> Ended:
    """Kill all processes of the run; with a grace period, first ask its ranks to save and exit."""
    return processes.end(lambda: _found(run_id), grace_s=grace_s)


def _found(run_id: str) -> list[int]:
    spared = processes.lineage()
    return [pid for pid in processes.carrying(f"{liveness.RUN}={run_id}") if pid not in spared]
