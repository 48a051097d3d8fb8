"""Starting: deploy, rollback, check, train and evaluate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rdtops.checks import CheckResult, Report
from rdtops.contract.evaluation import EvalSpec, Protocol, checked
from rdtops.contract.run import RunPaths, RunSpec, RunState
from rdtops.delivery import deploy as delivery
from rdtops.delivery import proven_environments, provision, releases, secrets
from rdtops.delivery.plan import Request
from rdtops.delivery.provision import Provisioned
from rdtops.errors import HostError, RemoteError
from rdtops.preflight import resume_checks
from rdtops.runs import admission, evaluations, launch, overview, records, watch
from rdtops.runs.jobs import Launched
from rdtops.runs.overview import RunView
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.views.delivery_output import DeployOutput, EnvironmentOutput, RollbackOutput
from rdtops.views.evaluation_output import EvaluationOutput
from rdtops.views.journal_output import EventOutput
from rdtops.views.launch_output import DryRunOutput, LaunchOutput
from rdtops.views.output import WorkflowOutput
from rdtops.views.preflight_output import CheckOutput
from rdtops.workflows import training
from rdtops.workflows.session import HostSession, Prepared
from rdtops.workflows.watching import _spec, follow_run


def deploy(session: HostSession, *, request: Request, only: str, environment: bool,
           dry_run: bool) -> Iterator[DeployOutput | EnvironmentOutput]:
    """Send what is missing or different; with `environment`, make the host's Python environment first."""
    delivery.parts(only)  # an invalid --only needs no connection
    prepared = session.prepare(request, of_this_tree=True)
    host, connection = session.host, session.connect()
    if environment:
        yield EnvironmentOutput(_provisioned(session, prepared, dry_run=dry_run))
    if not dry_run:
        session.interrupted = "what has arrived stays there; the same command continues from it"
    done = delivery.deploy(connection, session.snapshot, prepared.assets, only=only, dry_run=dry_run,
                           progress=session.progress)
    removed: tuple[str, ...] = ()
    if not dry_run and "code" in delivery.parts(only):
        removed = releases.settle(connection, session.snapshot.name)
        session.end_rollback()
    yield DeployOutput(host.name, tuple(done), dry_run, removed)


def _provisioned(session: HostSession, prepared: Prepared, *, dry_run: bool) -> Provisioned:
    """Make the environment that the host declares, of the newest versions that its driver and its Python run."""
    host, connection = session.host, session.connect()
    if not dry_run:
        session.interrupted = "an environment that is being made is finished there; the same command finds it"
    facts = provision.look(connection, session.step)
    if facts.problem:
        session.say(f"{host.name}: nvidia-smi names no driver, so the newest torch is taken: {facts.problem}")
    chosen = proven_environments.choose(host, facts.driver, facts.python)
    wanted = provision.recipe(host.environment, chosen, prepared.spec.train.tracker)
    return provision.provision(connection, facts, wanted, dry_run=dry_run, say=session.say, on_step=session.step,
                               progress=lambda done: session.progress("wheels", done))


def rollback(session: HostSession, *, to: str) -> Iterator[RollbackOutput]:
    yield RollbackOutput(releases.roll_back(session.connect(), to))


def check(session: HostSession, *, request: Request, everything: bool, fresh: bool) -> Iterator[CheckOutput]:
    prepared = session.prepare(request)
    report = session.report(prepared, again=True, fresh=fresh)
    duplicate = None if report.passed else admission.find_duplicate(session.connect(), prepared.spec)
    yield CheckOutput(training.excused(report, duplicate), everything)


def train(session: HostSession, *, request: Request, resume: str, again: bool, follow: bool,
          dry_run: bool) -> Iterator[WorkflowOutput]:
    run = overview.find(session.connect(), resume) if resume else None
    prepared = session.prepare_resume(run, request) if run else session.prepare(request)
    host, spec = session.host, prepared.spec
    if dry_run:
        yield _dry_run(host, spec, launch.files(host, spec), resume_checks(session.connect(), spec) if run else [])
        return
    session.interrupted = "nothing was launched"
    launched = _launched(session, prepared, run, again=again)
    session.interrupted = f"{launched.run_id} continues there"
    if problem := records.remember_launch(host.name):
        session.say(problem)
    yield LaunchOutput(launched)
    if follow:
        yield from follow_run(session, run_id=launched.run_id)


def _dry_run(host: Host, spec: RunSpec | EvalSpec, files: dict[str, str],
             compared: Sequence[CheckResult] = ()) -> DryRunOutput:
    return DryRunOutput(host.name, str(spec.paths.root), files, launch.start_line(host, spec), host.secrets,
                        secrets.host_file(spec.workspace, host), tuple(compared))


def _launched(session: HostSession, prepared: Prepared, run: RunView | None, *, again: bool) -> Launched:
    """Launch, and return the training that runs then: `run` resumed, the duplicate of the request, or a new one."""
    connection = session.connect()
    duplicate = run if run or again else admission.find_duplicate(connection, prepared.spec)
    if duplicate and duplicate.state is RunState.RUNNING:
        return training.adopted(connection, duplicate)
    if duplicate and not run:  # prepared, and then the laptop or the host died
        prepared = replace(prepared, spec=replace(prepared.spec, run_id=duplicate.run_id))
    findings = session.report(prepared, again=False)
    given = (prepared.spec, prepared.local_assets, findings)
    session.interrupted = f"it may have been launched: inv status --host {session.host.name}"
    with session.waiting("launching"):
        launched = (training.resume(connection, session.registry, run, *given) if run
                    else training.train(connection, session.registry, *given, again=again))
    _keep_checks(session, connection, RunPaths(prepared.spec.workspace, launched.run_id), findings)
    return launched


def _keep_checks(session: HostSession, connection: Connection, paths: RunPaths, findings: Report) -> None:
    """Save the findings in the run folder, for its report. An error here does not fail the launch."""
    try:
        overview.write_file(connection, paths.checks, json.dumps(findings.to_json(), ensure_ascii=False))
    except (HostError, RemoteError) as error:
        session.say(f"the check results could not be saved on the host: {error.message}")


def evaluate(session: HostSession, *, run_id: str, which: str, request: Request, protocol: Protocol, processes: int,
             device: str, follow: bool, dry_run: bool) -> Iterator[WorkflowOutput]:
    protocol = checked(protocol)  # an invalid one needs no connection
    host, connection = session.host, session.connect()
    prepared = session.prepare(request).spec
    run = (evaluations.stand_in(which, prepared) if evaluations.is_path(which) and not run_id
           else _evaluated(session, overview.find(connection, run_id)))
    spec = evaluations.spec_of(connection, run, prepared, which, protocol, processes, device, request.settings)
    if dry_run:
        yield _dry_run(host, spec, launch.evaluation_files(host, spec))
        return
    found = evaluations.existing(connection, spec)
    if found and found.state is RunState.FINISHED:
        session.say(f"{spec.name} is finished already; these are its results")
    elif found and found.state is RunState.RUNNING:
        session.say(f"{spec.name} is running")
    else:
        session.interrupted = f"it may have been launched: inv status --host {host.name}"
        yield LaunchOutput(evaluations.begin(connection, run, spec))
    session.interrupted = f"{spec.name} continues there"
    if follow and not (found and found.state is RunState.FINISHED):
        yield from _follow_evaluation(session, spec.run_id, spec.name)
    elif found:
        watch.catch_up(connection, session.registry, overview.find(connection, spec.run_id), session.say)
        yield EvaluationOutput(found)


def _follow_evaluation(session: HostSession, run_id: str, name: str) -> Iterator[EventOutput | EvaluationOutput]:
    connection = session.connect()
    run = overview.find(connection, run_id)
    for event, results in watch.follow(connection, session.registry, run_id, say=session.say,
                                       ended=lambda: evaluations.find(connection, run, name).state.ended):
        if event.data.get("name") == name and (event.kind == "trial" or event.kind.startswith("eval_")):
            yield EventOutput(event, 0, tuple(results))
    yield EvaluationOutput(evaluations.find(connection, run, name))


def _evaluated(session: HostSession, run: RunView) -> RunSpec:
    if run.state is RunState.RUNNING:
        session.say(f"{run.run_id} is still training: the evaluation shares its GPUs; --device cpu avoids that")
    return _spec(run, session.host)
