"""Jobs: trainings and evaluations as a launcher starts them, and their state by its answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.contract.evaluation import EvalPaths, EvalSpec
from rdtops.contract.run import RunPaths, RunSpec, RunState
from rdtops.launcher import Cause, Job, JobState, Phase, Submitted
from rdtops.runs import launchers
from rdtops.ssh.command import quoted
from rdtops.ssh.connection import Connection

_ENDS = {Cause.CANCELLED: RunState.STOPPED, Cause.PREEMPTED: RunState.STOPPED, Cause.NODE_FAILED: RunState.LOST,
         Cause.TIMED_OUT: RunState.FAILED, Cause.OUT_OF_MEMORY: RunState.FAILED, Cause.NOT_STARTED: RunState.FAILED}
_PHASES = {Phase.QUEUED: RunState.QUEUED, Phase.RUNNING: RunState.RUNNING, Phase.UNKNOWN: RunState.UNKNOWN}


@dataclass(frozen=True)
class Launched:
    """The result of launching a training, or an evaluation of one."""

    host: str
    run_id: str
    folder: str  # of the job, on the host
    submitted: Submitted
    is_scheduled: bool = False  # a scheduler has it, and may queue it
    resumed_from: str = ""  # the checkpoint from which a training resumes
    evaluation: str = ""  # its name; '' for a training
    tasks: tuple[str, ...] = ()  # of an evaluation, and how many trials it makes of all of them
    trials: int = 0
    notes: tuple[str, ...] = ()

    @property
    def launcher(self) -> str:
        """Return what started it: tmux, setsid, a job of a cluster; '' when it was running already."""
        return "" if self.submitted.already else self.submitted.words

    def to_json(self) -> dict[str, Any]:
        if self.evaluation:
            return {"host": self.host, "run_id": self.run_id, "name": self.evaluation, "launcher": self.launcher,
                    "folder": self.folder, "tasks": self.tasks, "trials": self.trials, "notes": self.notes}
        return {"host": self.host, "run_id": self.run_id, "launcher": self.launcher, "root": self.folder,
                "resumed_from": self.resumed_from, "is_new": not self.submitted.already, "note": self.submitted.note}


def training_job(paths: RunPaths, spec: RunSpec | None = None) -> Job:
    """Return the job of a training. Without `spec` it can be queried and stopped, but not started."""
    processes, on_gpus = (spec.train.num_processes, spec.train.device == "cuda") if spec else (1, False)
    return Job(paths.run_id, paths.script, paths.log, f"RDTOPS_RUN={paths.run_id}", processes, on_gpus, spreads=True)


def evaluation_job(paths: EvalPaths, spec: EvalSpec | None = None) -> Job:
    """Return the job of an evaluation, as training_job does."""
    name = f"{paths.run.run_id}/{paths.name}"
    processes, on_gpus = (spec.processes, spec.device == "cuda") if spec else (1, False)
    return Job(name, paths.script, paths.log, f"RDTOPS_EVAL={name}", processes, on_gpus)


def job_of(spec: RunSpec | EvalSpec) -> Job:
    """Return the job of a training or an evaluation, ready to be started."""
    return evaluation_job(spec.paths, spec) if isinstance(spec, EvalSpec) else training_job(spec.paths, spec)


def submit(connection: Connection, spec: RunSpec | EvalSpec) -> Submitted:
    """Start the script that is on the host, exactly once. Raises RunError when it did not start."""
    return launchers.launcher(connection.host).submit(connection, job_of(spec))


def launched(connection: Connection, spec: RunSpec | EvalSpec, submitted: Submitted, **facts: Any) -> Launched:
    return Launched(connection.host.name, spec.run_id, connection.short(str(spec.paths.root)), submitted,
                    launchers.traits(connection.host).is_scheduled, **facts)


def states(connection: Connection, jobs: Iterable[Job]) -> Mapping[str, JobState]:
    """Return the scheduler's state of each job, by name. Empty without a scheduler: files and processes decide then."""
    asked = list(jobs)
    if not asked or not launchers.traits(connection.host).is_scheduled:
        return {}
    return launchers.launcher(connection.host).states(connection, asked)


def state_of(job: JobState | None, by_files: RunState) -> RunState:
    """Return the scheduler's state where it knows the job; of a job that ended by itself, the state by its files."""
    if job is None or not is_known(job):
        return by_files
    return _PHASES.get(job.phase) or _ENDS.get(job.cause, by_files)


def is_known(job: JobState | None) -> bool:
    return job is not None and job.phase is not Phase.ABSENT


def stop(connection: Connection, job: Job, grace_s: float) -> None:
    """Stop a job, and write the request into its Journal. Raises RunError when a process is left, or when the scheduler
    does not answer."""
    line = json.dumps({"kind": "stop_requested", "time_s": round(time.time(), 3), "by": "inv stop"}) + "\n"
    journal = quoted(job.file("journal.jsonl"))
    # a full disk or a damaged Journal must not prevent the stop
    connection.run_shell(f"[ ! -f {journal} ] || cat >> {journal}", stdin=line.encode(), check=False)
    launchers.launcher(connection.host).stop(connection, job, grace_s)
