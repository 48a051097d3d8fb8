"""One function a task: what it does on one host. They yield what there is to show; rdtops.ops.render says how."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdtops.checks import Report
from rdtops.contract.evaluation import EvalSpec, Protocol, checked
from rdtops.contract.journal import Event
from rdtops.contract.run import Checkpoint, RunPaths, RunSpec, RunState, best_of
from rdtops.errors import ConfigError, HostError, RdtopsError, RemoteError, RunError, UsageError
from rdtops.ops import (
    admission,
    authoring,
    catalog,
    discovery,
    evaluation,
    inquiry,
    jobs,
    launch,
    launchers,
    provision,
    registry,
    releases,
    results,
    runs,
    secrets,
    training,
    trust,
    watch,
)
from rdtops.ops import deploy as delivery
from rdtops.ops import why as diagnosing
from rdtops.ops.authoring import Written
from rdtops.ops.catalog import PluginRow
from rdtops.ops.evaluation import EvalView
from rdtops.ops.news import LOST, Newsroom, Patience, Question, log_lines
from rdtops.ops.plan import Wish
from rdtops.ops.records import HookRecord, RunRecords
from rdtops.ops.runs import Gpu, RunView
from rdtops.ops.session import Prepared, Session
from rdtops.ops.training import Launched
from rdtops.ops.trust import SeenKey
from rdtops.remote import openssh
from rdtops.remote.command import Command, quoted
from rdtops.remote.connection import Connection
from rdtops.remote.hosts import Host
from rdtops.remote.words import size_words

LONGEST_LOG = 1 << 24  # bytes that `inv logs` shows
GPU_QUERY = ("index", "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")


@dataclass(frozen=True)
class HostRow:
    host: Host
    round_trip_s: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Deployed:
    host: str
    deliveries: tuple[delivery.Delivery, ...]
    dry_run: bool
    removed: tuple[str, ...] = ()  # old releases that nothing used


@dataclass(frozen=True)
class LaunchPlan:
    """What `inv train --dry-run` and `inv eval --dry-run` show: each file by its name, what would start it, and the
    names of the secrets that go into a file of their own."""

    host: str
    root: str
    files: dict[str, str]
    start: str
    secrets: tuple[str, ...]
    secrets_file: str  # '' when there are none


@dataclass(frozen=True)
class RunStatus:
    run: RunView
    evaluations: tuple[EvalView, ...]


@dataclass(frozen=True)
class HostStatus:
    """The runs of a host, or why it cannot be asked."""

    host: str
    runs: tuple[RunStatus, ...] = ()
    problem: RdtopsError | None = None


@dataclass(frozen=True)
class Progressed:
    """An event of a followed run, and what the plugins said of it."""

    event: Event
    max_steps: int
    records: tuple[HookRecord, ...]


@dataclass(frozen=True)
class CheckpointRow:
    run_id: str
    host: str
    checkpoint: Checkpoint
    latest: bool
    best: bool
    records: tuple[HookRecord, ...]
    state: str  # of its files against its manifest: verified, unverified, damaged
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointList:
    """`others`: what is no whole checkpoint, and why."""

    run: RunView
    rows: tuple[CheckpointRow, ...]
    others: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        return not any(row.state == "damaged" for row in self.rows)


@dataclass(frozen=True)
class Gpus:
    host: str
    text: str
    rows: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class GpuSample:
    """The GPUs of a host at one moment of `inv gpu --watch`."""

    host: str
    time_s: float
    gpus: tuple[Gpu, ...]
    problem: str = ""

    @property
    def in_place_of(self) -> str:
        """On a terminal a new one takes the place of the one before."""
        return self.host


@dataclass(frozen=True)
class Reported:
    """A report that was written on this laptop."""

    run_id: str
    page: Path


@dataclass(frozen=True)
class Text:
    """Lines of the host, passed on as they are."""

    text: str


def hosts(session: Session, host: Host, *, ping: bool) -> Iterator[HostRow]:
    if not ping:
        yield HostRow(host)
        return
    try:
        yield HostRow(host, session.connection(host).ping())
    except HostError as error:
        yield HostRow(host, None, f"{error.message}\n{error.remedy}")


def trust_host(session: Session, host: Host, *, accept: Callable[[SeenKey], bool]) -> Iterator[SeenKey]:
    yield from trust.trust(host, accept, session.ask)


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
    twin = None if report.passed else admission.find_twin(session.connection(host), prepared.spec)
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
    yield launched
    if follow:
        yield from follow_run(session, host, run_id=launched.run_id)


def _launch_plan(host: Host, spec: RunSpec | EvalSpec, files: dict[str, str]) -> LaunchPlan:
    return LaunchPlan(host.name, str(spec.paths.root), files, launch.start_line(host, spec), host.secrets,
                      secrets.host_file(spec.workspace, host))


def _launched(session: Session, host: Host, prepared: Prepared, run: RunView | None, *, again: bool) -> Launched:
    """What runs after this: `run` resumed, the twin of what is wanted, or a new one."""
    connection = session.connection(host)
    twin = run if run or again else admission.find_twin(connection, prepared.spec)
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
    path = str(paths.checks)
    try:
        connection.run_shell(f"cat > {quoted(path + '.tmp')} && mv {quoted(path + '.tmp')} {quoted(path)}",
                             stdin=json.dumps(findings.to_json(), ensure_ascii=False).encode())
    except (HostError, RemoteError) as error:
        session.say(f"what the checks found could not be kept there: {error.message}")


def status(session: Session, host: Host, *, run_id: str, everything: bool) -> Iterator[HostStatus]:
    """The run of that id, else all or the newest and those that are running. A host that cannot be asked is a row."""
    try:
        connection = session.connection(host)
        every = runs.list_runs(connection, gpus=True)
        found = ([runs.pick(connection, every, run_id)] if run_id
                 else every if everything else [r for r in every if r is every[-1] or r.state is RunState.RUNNING])
        evaluations = evaluation.list_evaluations(connection, found) if found else []
    except (HostError, RemoteError) as error:
        yield HostStatus(host.name, problem=error)
        return
    yield HostStatus(host.name, tuple(
        RunStatus(run, tuple(e for e in evaluations if e.run_id == run.run_id)) for run in found))


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
        watch.catch_up(connection, session.registry, runs.find(connection, spec.run_id))
        yield found


def _follow_evaluation(session: Session, host: Host, run_id: str, name: str) -> Iterator[Any]:
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    for event, said in watch.follow(connection, session.registry, run_id, on_lost=session.say,
                                    ended=lambda: evaluation.find(connection, run, name).state.ended):
        if event.data.get("name") == name and (event.kind == "trial" or event.kind.startswith("eval_")):
            yield Progressed(event, 0, tuple(said))
    yield evaluation.find(connection, run, name)


def _evaluated(session: Session, run: RunView, host: Host) -> RunSpec:
    if run.state is RunState.RUNNING:
        session.say(f"{run.run_id} is still training: the evaluation shares its GPUs; --device cpu keeps off them")
    return _spec(run, host)


def _spec(run: RunView, host: Host) -> RunSpec:
    if run.spec is None:
        raise UsageError(f"{run.run_id} has no readable config.json", remedy=f"inv logs --host {host.name}")
    return run.spec


def logs(session: Session, host: Host, *, run_id: str, lines: int, follow: bool, evaluated: bool) -> Iterator[Text]:
    """`evaluated`: of the run's newest evaluation instead of its training."""
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    log = evaluation.find(connection, run).log if evaluated else str(runs.paths(connection, run).log)

    def ended() -> bool:
        return evaluation.find(connection, run).state.ended

    path = log.removeprefix(str(runs.paths(connection, run).root) + "/")
    with Newsroom(connection) as newsroom:
        if not follow:
            piece = newsroom.news(run.run_id, {path: Question(last_lines=lines, limit=LONGEST_LOG)}).files[path]
            text = b"".join(line.content for line in piece.lines).decode("utf-8", "replace") + piece.rest
            yield Text(text or f"{run.run_id} has written no log yet\n")
            return
        for new in log_lines(newsroom, run.run_id, path, last_lines=lines, patience=Patience(session.say),
                             poll_s=watch.POLL_S, ended=ended if evaluated else None):
            yield Text(new.decode("utf-8", "replace"))


def why(session: Session, host: Host, *, run_id: str) -> Iterator[diagnosing.Why]:
    yield diagnosing.ask(session.connection(host), run_id)


def gpu(session: Session, host: Host, *, again_every_s: float) -> Iterator[Gpus | GpuSample]:
    connection = session.connection(host)
    if again_every_s and host.trains_elsewhere:
        raise UsageError(f"{host.name} is a login node: --watch looks at its own GPUs only",
                         remedy=f"inv gpu --host {host.name}   # those of the newest run's nodes, now")
    if again_every_s:
        yield from _gpus_again(connection, again_every_s)
        return
    query = Command("nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader,nounits")
    table = connection.run(_where_it_trains(connection, Command("nvidia-smi")), timeout_s=60)
    lines = connection.run(_where_it_trains(connection, query), timeout_s=60).out.strip().splitlines()
    rows = tuple(dict(zip(GPU_QUERY, (v.strip() for v in line.split(",")), strict=False)) for line in lines)
    yield Gpus(host.name, table.out, rows)


def _where_it_trains(connection: Connection, command: Command) -> Command:
    """On a cluster: on the nodes of the newest run."""
    if not connection.host.trains_elsewhere:
        return command
    run = runs.find(connection)
    if run.state is not RunState.RUNNING:
        raise RunError(f"{run.host}: {run.run_id} is {run.state.value}, so it has no nodes to look at",
                       remedy=f"inv status --host {run.host}")
    return launchers.of(connection.host).inside(connection, jobs.of_run(runs.paths(connection, run)), command)


def _gpus_again(connection: Connection, every_s: float) -> Iterator[GpuSample]:
    """For ever; a cut link is a sample that says so."""
    said: list[str] = []
    patience = Patience(said.append, every_s)
    last = GpuSample(connection.host.name, 0.0, ())
    with Newsroom(connection) as newsroom:
        while True:
            try:
                cards = newsroom.gpus()
            except LOST as error:
                pause_s = patience.lost(error)
                yield replace(last, problem=said[-1])
                time.sleep(pause_s)
                continue
            patience.reached()
            last = GpuSample(connection.host.name, time.time(), cards,
                             "" if cards else "nvidia-smi says nothing that can be read; inv gpu shows what it says")
            yield last
            time.sleep(every_s)


def checkpoints(session: Session, host: Host, *, run_id: str, verify: bool) -> Iterator[CheckpointList]:
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    watch.catch_up(connection, session.registry, run)
    whole, unfinished = runs.checkpoints(connection, run)
    if verify and whole:
        session.say(f"reading {size_words(sum(c.size_bytes for c in whole))} there")
    states = runs.digest_states(connection, run, verify=verify)
    said = RunRecords(host.name, run.run_id).hooks()
    best = best_of(whole)
    rows = tuple(CheckpointRow(run.run_id, host.name, c, c is whole[-1], c is best,
                               tuple(r for r in said if r.digest == c.digest), *states.get(c.name, ("unverified", ())))
                 for c in whole)
    others = tuple((name, "; ".join(states[name][1]) if name in states else "not one of ours") for name in unfinished)
    yield CheckpointList(run, rows, others)


def attach(session: Session, host: Host, *, run_id: str) -> Iterator[Text]:
    """Hand the terminal to OpenSSH, which draws it better than we would."""
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    spec = _spec(run, host)
    yield Text(f"attached to {run.run_id}; leave with Ctrl-b d (the training does not need this window)\n")
    line = launchers.of(host).attach_line(jobs.of_run(spec.paths, spec))
    with tempfile.NamedTemporaryFile("w", prefix="rdtops-", suffix=".ssh_config") as config:
        config.write(openssh.config_text(host))
        config.flush()
        subprocess.run(["ssh", "-F", config.name, "-t", host.name, line], check=False)


def stop(session: Session, host: Host, *, run_id: str, grace_s: float, evaluated: bool) -> Iterator[RunView | EvalView]:
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    if evaluated:
        view = evaluation.find(connection, run)
        evaluation.stop(connection, view)
        yield evaluation.find(connection, run, view.name)
        return
    if run.state is RunState.RUNNING:
        session.say(f"asking {run.run_id} to save and stop (up to {grace_s:.0f} s)")
    runs.stop(connection, run, grace_s)
    yield runs.find(connection, run.run_id)


def follow_run(session: Session, host: Host, *, run_id: str) -> Iterator[Any]:
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    steps = run.spec.train.max_steps if run.spec else 0
    shown_s = 0.0
    for event, said in watch.follow(connection, session.registry, run.run_id, from_start=True, on_lost=session.say):
        if event.kind == "step":  # all are in the Journal; a person reads one a second
            if event.time_s - shown_s < 1 and event.data.get("step") != steps:
                continue
            shown_s = event.time_s
        yield Progressed(event, steps, tuple(said))
    yield runs.find(connection, run.run_id)


def fetch_results(session: Session, host: Host, *, run_id: str, which: str, into: str) -> Iterator[results.Fetched]:
    """`run_id` all: every run of the host, oldest first."""
    connection = session.connection(host)
    for run in runs.list_runs(connection) if run_id == "all" else [runs.find(connection, run_id)]:
        yield _fetched(session, connection, run, which, Path(into).expanduser())


def report(session: Session, host: Host, *, run_id: str, into: str) -> Iterator[Reported]:
    """Of a run on a host: everything but its checkpoints comes home first."""
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    fetched = _fetched(session, connection, run, "none", Path(into).expanduser())
    yield Reported(run.run_id, fetched.report)


def report_here(_: Session, *, folder: str) -> Iterator[Reported]:
    """Of a folder that was fetched before; no host is asked."""
    from rdtops.ops import report as pages  # it shows things, and what shows things imports this module

    root = Path(folder).expanduser()
    yield Reported(root.name, pages.describe(root))


def _fetched(session: Session, connection: Connection, run: RunView, which: str, into: Path) -> results.Fetched:
    from rdtops.ops import report as pages

    watch.catch_up(connection, session.registry, run)
    fetched = results.fetch(connection, run, into, which=which, progress=session.progress(connection.host))
    try:
        pages.describe(fetched.folder)
    except UsageError as error:  # the files are here; a run without a readable config.json has nothing to describe
        session.say(error.message)
    return fetched


def replay(session: Session, host: Host, *, run_id: str, step: int, checkpoint: str,
           device: str) -> Iterator[inquiry.Replayed]:
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    session.say(f"replaying step {step} of {run.run_id}")
    yield inquiry.replay(connection, run, step, checkpoint, device)


def normfit(session: Session, host: Host, *, wish: Wish, samples: int) -> Iterator[inquiry.NormFitted]:
    prepared = session.prepared(host, wish)
    session.say(f"asking {samples} samples under each norm")
    yield inquiry.normfit(session.connection(host), prepared.spec, samples)


def stats(session: Session, host: Host, *, wish: Wish, recompute: bool) -> Iterator[inquiry.Stats]:
    prepared = session.prepared(host, wish)
    yield inquiry.stats(session.connection(host), prepared.spec, recompute)


def stats_here(session: Session, *, wish: Wish, recompute: bool) -> Iterator[inquiry.Stats]:
    """Of this laptop's copy of the dataset, which is what a deploy sends."""
    config = wish.config_here(session.inventory)
    folder = session.inventory.asset(config.dataset)
    if folder is None or not folder.is_dir():
        raise UsageError(f"this laptop has no dataset {config.dataset}" + (f" at {folder}" if folder else ""),
                         remedy=f"name its folder under [assets] of hosts.toml, or: inv stats --host HOST "
                                f"--preset {config.preset}")
    yield inquiry.stats_here(folder, config, recompute)


def plugins(session: Session) -> Iterator[PluginRow]:
    """Also where hosts.toml cannot be read, or requires a plugin that is not there: this is where one looks then."""
    try:
        hosts, required = tuple(session.inventory.hosts.values()), session.inventory.required_plugins
    except ConfigError as error:
        session.say(error.message)
        hosts, required = (), ()
    yield from catalog.rows(registry.load(), hosts, required)


def new_plugin(_: Session, *, name: str, package: bool) -> Iterator[Written]:
    yield authoring.write(name, Path.cwd() if package else discovery.user_folder(), package=package)


def exit_code(shown: Any) -> int:
    """0 good, 1 when what is shown says that a check or a run failed."""
    failed = (
        not getattr(shown, "passed", True)
        or not getattr(shown, "holds", True)
        or (isinstance(shown, HostRow) and bool(shown.problem))
        or (isinstance(shown, (RunView, EvalView)) and shown.state in (RunState.FAILED, RunState.LOST)))
    if isinstance(shown, HostStatus):
        return shown.problem.exit_code if shown.problem else max((exit_code(r.run) for r in shown.runs), default=0)
    return 3 if isinstance(shown, HostRow) and failed else int(failed)
