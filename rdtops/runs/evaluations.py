"""Evaluations as the laptop sees them: list, request, launch and stop them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdtops import answers
from rdtops.answers import EvaluationFacts
from rdtops.contract.config import accepted_roles, override, roles_named
from rdtops.contract.evaluation import EvalPaths, EvalSpec, Protocol, checkpoint_folder
from rdtops.contract.run import RunPaths, RunSpec, RunState, state_of
from rdtops.delivery import plan, secrets
from rdtops.errors import RunError, UsageError
from rdtops.hostlib import fields
from rdtops.hostlib.names import EvaluationName, RunId
from rdtops.launcher import Job, JobState
from rdtops.on_host import run_reporter, training_starter
from rdtops.runs import inquiries, jobs, launch, overview, results
from rdtops.runs.jobs import Launched
from rdtops.runs.overview import RunView
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.connection import Connection

GRACE_S = 30.0
ENCODERS = ("text_encoder", "vision_encoder")


@dataclass(frozen=True)
class EvalView:
    """One evaluation of one run at one moment."""

    name: EvaluationName
    run_id: RunId
    host: str
    folder: str  # on the host
    state: RunState
    exit_code: int | None
    outcomes: Mapping[str, int]  # success, failure, error -> trials that ended so
    report: Mapping[str, Any] | None  # None before the first step
    log_tail: str

    @property
    def planned(self) -> int | None:
        return fields.whole(self.report.get("planned_trials")) if self.report else None

    @property
    def ended_trials(self) -> int:
        return sum(self.outcomes.values())

    @property
    def log(self) -> str:
        return f"{self.folder}/eval.log"

    def to_json(self) -> dict[str, Any]:
        """Return it without what the report has of each trial."""
        summary = {k: v for k, v in (self.report or {}).items() if k not in ("trials", "name", "run_id")}
        return {"name": self.name, "run_id": self.run_id, "host": self.host, "folder": self.folder,
                "state": self.state.value, "exit_code": self.exit_code, "planned_trials": self.planned,
                **self.outcomes, "report": summary or None}


def list_evaluations(connection: Connection, found: Sequence[RunView]) -> list[EvalView]:
    """List the evaluations of these runs, oldest first."""
    answer = connection.call(run_reporter, {"op": "evaluations", "workspace": connection.workspace,
                                            "run_ids": [run.run_id for run in found]})
    listed = answers.evaluations(connection.host.name, answer)
    states = jobs.states(connection, (_job(connection, facts.run_id, facts.name) for facts in listed))
    return [_view(connection.host.name, connection.workspace, facts, states.get(f"{facts.run_id}/{facts.name}"))
            for facts in listed]


def find(connection: Connection, run: RunView, name: str = "") -> EvalView:
    """Return the evaluation whose name contains `name`, by default the newest. Raises RunError."""
    every = list_evaluations(connection, [run])
    if not every:
        raise RunError(f"{run.host}: {run.run_id} has no evaluation",
                       remedy=f"inv eval --host {run.host} --run {run.run_id}")
    matching = [e for e in every if e.name == name] or [e for e in every if name in e.name]
    if len(matching) != 1 and name:
        which = "several evaluations" if matching else "no evaluation"
        raise RunError(f"{run.host}: {run.run_id} has {which} called {name!r}: {', '.join(e.name for e in every)}",
                       remedy=f"inv status --host {run.host} --run {run.run_id}")
    return matching[-1]


def spec_of(connection: Connection, run: RunSpec, code: RunSpec, which: str, protocol: Protocol, processes: int,
            device: str, settings: Sequence[str] = ()) -> EvalSpec:
    """Return the spec of an evaluation of `run` by the release of `code`. `which`: latest, best, a step, or a path on
    the host. The encoders are those of the run, or those that `settings` name, which may then differ from those of the
    training. Raises RunError when the run has no such checkpoint."""
    if is_path(which):
        folder, digest = connection.absolute(checkpoint_folder(which)), ""
    else:
        chosen = results.choose(connection, overview.find(connection, run.run_id), which)
        if chosen is None:
            raise RunError(f"{run.host}: {run.run_id} has no complete checkpoint yet",
                           remedy=f"inv checkpoints --host {run.host} --run {run.run_id}")
        folder, digest = chosen.path, chosen.digest
    named = override(run.train, [s for s in settings if s.partition("=")[0].strip() in ENCODERS])
    return EvalSpec(
        run.run_id, run.host, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), connection.workspace, code.release,
        code.snapshot, folder, digest, {role: plan.folder_there(connection, getattr(named, role)) for role in ENCODERS},
        device or run.train.device, run.train.mixed_precision, protocol, processes or run.train.num_processes,
        ",".join(role for role in accepted_roles(roles_named(settings)) if role in ENCODERS))


def is_path(which: str) -> bool:
    return "/" in which


def stand_in(path: str, fresh: RunSpec) -> RunSpec:
    """Return a run for a checkpoint that is not of our runs. Its id sorts before all others and is always the same."""
    digest = hashlib.md5(checkpoint_folder(path).encode()).hexdigest()[:4]
    return replace(fresh, run_id=RunId(f"00000000-000000-evaluated-{digest}"))


def begin(connection: Connection, run: RunSpec, spec: EvalSpec) -> Launched:
    """Let the host check the request, then launch. Raises the error of the check."""
    _require_release(connection, spec)
    _prepare(connection, spec)
    try:
        checked = inquiries.ask(connection, spec.release, "evaluate", [str(spec.paths.spec), "--check"])
    except (RunError, UsageError):
        _forget(connection, spec)
        raise
    if not connection.run(Command("test", "-e", str(run.paths.config)), check=False).ok:
        # a stand-in; every other run has its folder
        overview.write_file(connection, run.paths.config, run.to_json() + "\n", make_folder=True)
    tasks = tuple(task["name"] for task in checked["tasks"])
    if sent := secrets.for_the_host(spec.workspace, connection.host):
        connection.call(training_starter, {"op": "secrets", **sent})
    return jobs.launched(connection, spec, jobs.submit(connection, spec), evaluation=spec.name, tasks=tasks,
                         trials=len(tasks) * spec.protocol.trials, notes=tuple(checked["notes"]))


def stop(connection: Connection, view: EvalView, grace_s: float = GRACE_S) -> None:
    """Stop it. The trials that are running are lost, those that ended are kept."""
    if not view.state.can_be_stopped:
        raise RunError(f"{view.host}: {view.name} is {view.state.value}, not running")
    jobs.stop(connection, _job(connection, view.run_id, view.name), grace_s)


def existing(connection: Connection, spec: EvalSpec) -> EvalView | None:
    """Return the evaluation that the same request made before."""
    answer = connection.call(run_reporter, {"op": "evaluations", "workspace": spec.workspace, "run_ids": [spec.run_id]})
    listed = answers.evaluations(spec.host, answer)
    mine = next((facts for facts in listed if facts.name == spec.name), None)
    if mine is None:
        return None
    job = jobs.job_of(spec)
    return _view(spec.host, spec.workspace, mine, jobs.states(connection, [job]).get(job.name))


def _job(connection: Connection, run_id: RunId, name: EvaluationName) -> Job:
    return jobs.evaluation_job(EvalPaths(RunPaths(connection.workspace, run_id), name))


def _require_release(connection: Connection, spec: EvalSpec) -> None:
    if not connection.run_shell(f"[ -e {quoted(spec.release + '/snapshot.json')} ]", check=False).ok:
        raise RunError(f"{spec.host}: this tree ({spec.snapshot}) is not deployed; an evaluation runs its code",
                       remedy=f"inv deploy --host {spec.host} --only code")


def _prepare(connection: Connection, spec: EvalSpec) -> None:
    """Make the evaluation's folder with its files, each written whole."""
    files = launch.evaluation_files(connection.host, spec)
    for name, text in files.items():
        overview.write_file(connection, spec.paths.root / name, text, make_folder=True)


def _forget(connection: Connection, spec: EvalSpec) -> None:
    """Remove what was written for a request that is refused; nothing of an evaluation that has begun."""
    paths = spec.paths
    here, report = quoted(str(paths.root)), quoted(str(paths.report))
    files = f"{quoted(str(paths.spec))} {quoted(str(paths.script))}"
    connection.run_shell(f"[ -e {report} ] || {{ rm -f {files}; rmdir -p {here} 2>/dev/null; }}; :")


def _view(host: str, workspace: str, facts: EvaluationFacts, job: JobState | None = None) -> EvalView:
    report = _report(facts.report)
    planned = fields.whole(report.get("planned_trials")) if report else None
    outcomes, code = facts.outcomes, facts.exit_code
    if code is None and planned is not None and planned == outcomes["success"] + outcomes["failure"]:
        code = 0  # started by hand, without eval.sh
    state = jobs.state_of(job, state_of(
        exit_code=code, process_alive=facts.alive, launched=facts.launched or report is not None,
        stop_requested=facts.stop_requested))
    folder = EvalPaths(RunPaths(workspace, facts.run_id), facts.name).root
    return EvalView(facts.name, facts.run_id, host, str(folder), state, code, outcomes, report, facts.log_tail)


def _report(text: str) -> Mapping[str, Any] | None:
    """Return None where there is none yet, and where it cannot be read."""
    try:
        return fields.table(fields.loads(text)) or None
    except ValueError:
        return None
