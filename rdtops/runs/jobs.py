"""Runs and evaluations as the jobs that a launcher starts, and what its answers mean for their state."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

from rdtops.contract.evaluation import EvalSpec
from rdtops.contract.run import RunPaths, RunSpec, RunState
from rdtops.launcher import Cause, Job, JobState, Phase
from rdtops.runs import launchers
from rdtops.ssh.command import quoted
from rdtops.ssh.connection import Connection

_ENDS = {Cause.CANCELLED: RunState.STOPPED, Cause.PREEMPTED: RunState.STOPPED, Cause.NODE_FAILED: RunState.LOST,
         Cause.TIMED_OUT: RunState.FAILED, Cause.OUT_OF_MEMORY: RunState.FAILED, Cause.NOT_STARTED: RunState.FAILED}
_PHASES = {Phase.QUEUED: RunState.QUEUED, Phase.RUNNING: RunState.RUNNING, Phase.UNKNOWN: RunState.UNKNOWN}


def of_run(paths: RunPaths, spec: RunSpec | None = None) -> Job:
    """Without `spec` it is good for asking and stopping, not for starting."""
    processes, on_gpus = (spec.train.num_processes, spec.train.device == "cuda") if spec else (1, False)
    return Job(paths.run_id, paths.script, paths.log, f"RDTOPS_RUN={paths.run_id}", processes, on_gpus, spreads=True)


def of_evaluation(spec: EvalSpec) -> Job:
    name = f"{spec.run_id}/{spec.name}"
    return Job(name, spec.paths.script, spec.paths.log, f"RDTOPS_EVAL={name}", spec.processes, spec.device == "cuda")


def of_evaluation_named(workspace: str, run_id: str, name: str) -> Job:
    """Good for asking and stopping, not for starting."""
    folder = RunPaths(workspace, run_id).eval / name
    return Job(f"{run_id}/{name}", folder / "eval.sh", folder / "eval.log", f"RDTOPS_EVAL={run_id}/{name}")


def told(connection: Connection, jobs: Iterable[Job]) -> Mapping[str, JobState]:
    """What the scheduler of a cluster says of each, by name; nothing on a host that trains itself, whose own processes
    and files tell."""
    asked = list(jobs)
    if not connection.host.trains_elsewhere or not asked:
        return {}
    return launchers.of(connection.host).states(connection, asked)


def state_of(job: JobState | None, by_files: RunState) -> RunState:
    """Where a scheduler knows the job, its word; of one that ended by itself, what its exit code says."""
    if job is None or not is_known(job):
        return by_files
    return _PHASES.get(job.phase) or _ENDS.get(job.cause, by_files)


def is_known(job: JobState | None) -> bool:
    return job is not None and job.phase is not Phase.ABSENT


def stop(connection: Connection, job: Job, grace_s: float) -> None:
    """Raises RunError when something is left, or when the scheduler does not answer."""
    line = json.dumps({"kind": "stop_requested", "time_s": round(time.time(), 3), "by": "inv stop"}) + "\n"
    journal = quoted(job.file("journal.jsonl"))
    connection.run_shell(f"[ ! -e {journal} ] || cat >> {journal}", stdin=line.encode())
    launchers.of(connection.host).stop(connection, job, grace_s)
