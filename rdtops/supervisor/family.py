"""The processes of a run as its supervisor sees them: without itself and those it descends from."""

from __future__ import annotations

from rdtops.hostlib import liveness, processes
from rdtops.hostlib.processes import Ended, Process


def members(run_id: str) -> list[Process]:
    """Our user's living processes of the run."""
    return processes.processes_of(_found(run_id))


def ranks(run_id: str) -> list[Process]:
    return processes.ranks_of(members(run_id))


def end(run_id: str, *, grace_s: float = 0.0) -> Ended:
    """Kill them all; with a grace, its ranks are asked to save and leave first."""
    return processes.end(lambda: _found(run_id), grace_s=grace_s)


def _found(run_id: str) -> list[int]:
    spared = processes.lineage()
    return [pid for pid in processes.carrying(f"{liveness.RUN}={run_id}") if pid not in spared]
