"""Why: the reason that a run ended or is slow. One call to its host; rdtops.contract.diagnosis interprets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rdtops import answers
from rdtops.contract import diagnosis
from rdtops.contract.diagnosis import Diagnosis, Evidence
from rdtops.contract.run import RunPaths
from rdtops.hostlib import fields
from rdtops.launcher import Cause, JobState, Phase
from rdtops.runs import jobs, overview
from rdtops.ssh.connection import Connection
from rdtops.supervisor import evidence_on_host


@dataclass(frozen=True)
class Why:
    """A run's diagnosis, and how each attempt of its last launch ended."""

    run_id: str
    host: str
    diagnosis: Diagnosis
    attempts: tuple[Mapping[str, Any], ...]  # attempt, exit_code, cause, summary, restart_in_s

    @property
    def passed(self) -> bool:
        return self.diagnosis.passed

    def to_json(self) -> dict[str, Any]:
        found = asdict(self.diagnosis)
        return {"run_id": self.run_id, "host": self.host, "well": self.passed, **found,
                "lines": [str(line) for line in self.diagnosis.lines], "attempts": list(self.attempts)}


def ask(connection: Connection, run_id: str = "") -> Why:
    """Return why a run ended or is slow. `run_id` as in overview.find. Raises RunError when there is no such run."""
    answer = connection.call(evidence_on_host, {"workspace": connection.workspace, "wanted": run_id}, timeout_s=90.0)
    host = connection.host.name
    names, running = ([answers.run_id(host, name) for name in fields.words(answer.get(key))]
                      for key in ("names", "running"))
    name = overview.choose(host, connection.workspace, names, run_id, running)  # raises where it is not one
    job = jobs.states(connection, [jobs.training_job(RunPaths(connection.workspace, name))]).get(name)
    facts = _without_processes(fields.table(answer.get("facts")), job)
    cause = _job_diagnosis(job) or diagnosis.diagnose(Evidence.of(host, facts))
    return Why(name, host, cause, tuple(map(_attempt, fields.rows(answer.get("attempts")))))


def _attempt(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event, with the values that are shown as their types."""
    return {**event, "attempt": fields.whole(event.get("attempt")), "exit_code": fields.whole(event.get("exit_code")),
            "cause": fields.text(event.get("cause")), "summary": fields.text(event.get("summary")),
            "restart_in_s": fields.number(event.get("restart_in_s"))}


def _job_diagnosis(job: JobState | None) -> Diagnosis | None:
    """Return what a cluster's scheduler knows better than the files of the run; None where the files decide."""
    if job is None or job.phase in (Phase.ABSENT, Phase.RUNNING):
        return None
    if job.phase is Phase.ENDED and job.cause in (Cause.NONE, Cause.FORGOTTEN):
        return None
    named = {Cause.WAITS: "queued", Cause.OUT_OF_MEMORY: "oom_killer", Cause.NONE: "scheduler_silent"}
    return Diagnosis(named.get(job.cause, job.cause.value), job.words, (), job.remedy)


def _without_processes(facts: Mapping[str, Any], job: JobState | None) -> Mapping[str, Any]:
    """Drop what a login node cannot know, the processes and GPUs of a job; the scheduler says whether it runs."""
    if job is None or job.phase is Phase.ABSENT:
        return facts
    return {**facts, "alive": job.phase is Phase.RUNNING, "launched": True, "gpus": [], "gpu_problem": "", "ranks": [],
            "same_boot": True, "oom_kills": None}
