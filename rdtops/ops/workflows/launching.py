"""What changes a host and starts something there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rdtops.checks import Report
from rdtops.contract.evaluation import EvalSpec, Protocol, checked
from rdtops.contract.run import RunPaths, RunSpec, RunState
from rdtops.errors import HostError, RemoteError
from rdtops.ops import admission, evaluation, launch, provision, records, releases, runs, secrets, training, watch
from rdtops.ops import deploy as delivery
from rdtops.ops.plan import Wish
from rdtops.ops.runs import RunView
from rdtops.ops.session import Prepared, Session
from rdtops.ops.training import Launched
from rdtops.ops.views import Deployed, LaunchPlan, Progressed
from rdtops.ops.workflows.watching import _spec, follow_run
from rdtops.remote.connection import Connection
from rdtops.remote.hosts import Host


def deploy(session: Session, host: Host, *, wish: Wish, only: str, environment: bool,
           dry_run: bool) -> Iterator[Deployed | provision.Provisioned]:
    """`environment`: that of the host too, before everything else."""
    delivery.parts(only)  # a wrong --only needs no connection
    prepared = session.prepared(host, wish, of_this_tree=True)
    connection = session.connection(host)
    if environment:
        progress = session.progress(host)
        yield provision.provision(connection, provision.recipe(host.environment, prepared.spec.train.tracker),
                                  dry_run=dry_run, say=session.say, progress=lambda done: progress("wheels", done))
    done = delivery.deploy(connection, session.snapshot, prepared.assets, only=only, dry_run=dry_run,
                           progress=session.progress(host))
    removed: tuple[str, ...] = ()
    if not dry_run and "code" in delivery.parts(only):
        removed = releases.settle(connection, session.snapshot.name)
        session.deployed(host)
    yield Deployed(host.name, tuple(done), dry_run, removed)


def rollback(session: Session, host: Host, *, to: str) -> Iterator[releases.RolledBack]:
    yield releases.roll_back(session.connection(host), to)


def check(session: Session, host: Host, *, wish: Wish) -> Iterator[Any]:
    prepared = session.prepared(host, wish)
    report = session.report(host, prepared, again=True)
    twin = None if report.passed else admission.find_duplicate(session.connection(host), prepared.spec)
    yield training.excused(report, twin)


def train(session: Session, host: Host, *, wish: Wish, resume: str, again: bool, follow: bool,
          dry_run: bool) -> Iterator[Any]:
    prepared = session.prepared(host, wish)
    connection = session.connection(host)
    run = runs.find(connection, resume) if resume else None
    if run:
        spec = training.resumed_spec(run, prepared.spec, wish.settings)
        prepared = replace(prepared, spec=spec)
    spec = prepared.spec
    if dry_run:
        yield _launch_plan(host, spec, launch.files(host, spec))
        return
    launched = _launched(session, host, prepared, run, again=again)
    if problem := records.remember_launch(host.name):
        session.say(problem)
    yield launched
    if follow:
        yield from follow_run(session, host, run_id=launched.run_id)


def _launch_plan(host: Host, spec: RunSpec | EvalSpec, files: dict[str, str]) -> LaunchPlan:
    return LaunchPlan(host.name, str(spec.paths.root), files, launch.start_line(host, spec), host.secrets,
                      secrets.host_file(spec.workspace, host))


def _launched(session: Session, host: Host, prepared: Prepared, run: RunView | None, *, again: bool) -> Launched:
    """What runs after this: `run` resumed, the twin of what is wanted, or a new one."""
    connection = session.connection(host)
    twin = run if run or again else admission.find_duplicate(connection, prepared.spec)
    if twin and twin.state is RunState.RUNNING:
        return training.adopted(connection, twin)
    if twin and not run:  # prepared, and then the laptop or the host died
        prepared = replace(prepared, spec=replace(prepared.spec, run_id=twin.run_id))
    findings = session.report(host, prepared, again=False)
    given = (prepared.spec, prepared.local_assets, findings)
    launched = (training.resume(connection, session.registry, run, *given) if run
                else training.train(connection, session.registry, *given, again=again))
    _keep_checks(session, connection, RunPaths(prepared.spec.workspace, launched.run_id), findings)
    return launched


def _keep_checks(session: Session, connection: Connection, paths: RunPaths, findings: Report) -> None:
    """Beside the run, for its report. A launch that has succeeded does not fail of it."""
    try:
        runs.write_file(connection, paths.checks, json.dumps(findings.to_json(), ensure_ascii=False))
    except (HostError, RemoteError) as error:
        session.say(f"what the checks found could not be kept there: {error.message}")


def evaluate(session: Session, host: Host, *, run_id: str, which: str, wish: Wish, protocol: Protocol, processes: int,
             device: str, follow: bool, dry_run: bool) -> Iterator[Any]:
    protocol = checked(protocol)  # a wrong one needs no connection
    connection = session.connection(host)
    prepared = session.prepared(host, wish).spec
    run = (evaluation.stand_in(which, prepared) if evaluation.is_path(which) and not run_id
           else _evaluated(session, runs.find(connection, run_id), host))
    spec = evaluation.spec_of(connection, run, prepared, which, protocol, processes, device)
    if dry_run:
        yield _launch_plan(host, spec, launch.evaluation_files(host, spec))
        return
    found = evaluation.existing(connection, spec)
    if found and found.state is RunState.FINISHED:
        session.say(f"{spec.name} was done before; here is what it found")
    elif found and found.state is RunState.RUNNING:
        session.say(f"{spec.name} is running")
    else:
        yield evaluation.begin(connection, run, spec)
    if follow and not (found and found.state is RunState.FINISHED):
        yield from _follow_evaluation(session, host, spec.run_id, spec.name)
    elif found:
        watch.catch_up(connection, session.registry, runs.find(connection, spec.run_id), session.say)
        yield found


def _follow_evaluation(session: Session, host: Host, run_id: str, name: str) -> Iterator[Any]:
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    for event, said in watch.follow(connection, session.registry, run_id, say=session.say,
                                    ended=lambda: evaluation.find(connection, run, name).state.ended):
        if event.data.get("name") == name and (event.kind == "trial" or event.kind.startswith("eval_")):
            yield Progressed(event, 0, tuple(said))
    yield evaluation.find(connection, run, name)


def _evaluated(session: Session, run: RunView, host: Host) -> RunSpec:
    if run.state is RunState.RUNNING:
        session.say(f"{run.run_id} is still training: the evaluation shares its GPUs; --device cpu keeps off them")
    return _spec(run, host)
