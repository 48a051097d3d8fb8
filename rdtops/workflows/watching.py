"""Watching: status, logs and checkpoints of runs; attach, stop and follow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from rdtops.contract.run import RunSpec, RunState, best_of
from rdtops.errors import ConfigError, HostError, RemoteError, RunError, UsageError
from rdtops.runs import evaluations, jobs, launchers, overview, watch
from rdtops.runs import why as diagnosing
from rdtops.runs.overview import RunView
from rdtops.runs.poller import Backoff, Question, RunPoller, log_lines
from rdtops.runs.records import RunRecords
from rdtops.ssh.display import size_words
from rdtops.ssh.hosts import Host
from rdtops.views.checkpoint_output import CheckpointRow, CheckpointsOutput
from rdtops.views.evaluation_output import EvaluationOutput
from rdtops.views.journal_output import EventOutput
from rdtops.views.run_output import LogOutput, RunOutput, RunStatus, StatusOutput
from rdtops.views.why_output import WhyOutput
from rdtops.workflows.session import HostSession

LONGEST_LOG = 1 << 24  # most bytes that `inv logs` shows


def status(session: HostSession, *, run_id: str, everything: bool) -> Iterator[StatusOutput]:
    """Show the run of that id, else all, or the newest and the running ones. A host that cannot be reached is a row."""
    host = session.host
    try:
        connection = session.connect()
        every = overview.list_runs(connection, gpus=True)
        found = ([overview.pick(connection, every, run_id)] if run_id
                 else every if everything else [r for r in every if r is every[-1] or r.state is RunState.RUNNING])
        evaluated = evaluations.list_evaluations(connection, found) if found else []
    except (HostError, RemoteError, ConfigError) as error:
        yield StatusOutput(host.name, problem=error)
        return
    yield StatusOutput(host.name, tuple(
        RunStatus(run, tuple(e for e in evaluated if e.run_id == run.run_id)) for run in found))


def logs(session: HostSession, *, run_id: str, lines: int, follow: bool, evaluated: bool) -> Iterator[LogOutput]:
    """Show the log of a run's training or, with `evaluated`, of its newest evaluation."""
    connection = session.connect()
    run = overview.find(connection, run_id)
    log = evaluations.find(connection, run).log if evaluated else str(overview.paths(connection, run).log)

    def ended() -> bool:
        return evaluations.find(connection, run).state.ended

    path = log.removeprefix(str(overview.paths(connection, run).root) + "/")
    with RunPoller(connection) as poller:
        if not follow:
            chunk = poller.poll(run.run_id, {path: Question(last_lines=lines, limit=LONGEST_LOG)}).files[path]
            text = b"".join(line.content for line in chunk.lines).decode("utf-8", "replace") + chunk.rest
            yield LogOutput(text or f"{run.run_id} has written no log yet\n")
            return
        for new in log_lines(poller, run.run_id, path, last_lines=lines, backoff=Backoff(session.say),
                             poll_s=watch.POLL_S, ended=ended if evaluated else None):
            yield LogOutput(new.decode("utf-8", "replace"))


def why(session: HostSession, *, run_id: str) -> Iterator[WhyOutput]:
    yield WhyOutput(diagnosing.ask(session.connect(), run_id))


def checkpoints(session: HostSession, *, run_id: str, verify: bool) -> Iterator[CheckpointsOutput]:
    connection = session.connect()
    run = overview.find(connection, run_id)
    watch.catch_up(connection, session.registry, run, session.say)
    whole, unfinished = overview.checkpoints(connection, run)
    if verify and whole:
        session.say(f"reading {size_words(sum(c.size_bytes for c in whole))} on the host")
    states = overview.digest_states(connection, run, verify=verify)
    records = RunRecords(session.host.name, run.run_id).hooks()
    best = best_of(whole)
    rows = tuple(CheckpointRow(c, c is whole[-1], c is best, tuple(r for r in records if r.digest == c.digest),
                               *states.get(c.name, ("unverified", ()))) for c in whole)
    others = tuple((name, "; ".join(states[name][1]) if name in states else "not a checkpoint") for name in unfinished)
    yield CheckpointsOutput(run, rows, others)


def attach(session: HostSession, *, run_id: str) -> Iterator[LogOutput]:
    """Open the terminal of a run with OpenSSH, until the user leaves it or the run ends. Raise RunError for a run that
    has ended or was never launched."""
    host, connection = session.host, session.connect()
    run = overview.find(connection, run_id)
    spec = _spec(run, host)
    if run.state.ended or run.state is RunState.PREPARED:
        was = "was never launched" if run.state is RunState.PREPARED else f"has ended ({run.state.value})"
        raise RunError(f"{host.name}: {run.run_id} {was}: there is no terminal to attach to",
                       remedy=f"inv logs --host {host.name} --run {run.run_id}")
    yield LogOutput(f"attached to {run.run_id}; detach with {launchers.traits(host).detach_keys}: the training "
                    "continues\n")
    line = launchers.launcher(host).attach_line(jobs.job_of(spec))
    with connection.terminal(line) as command:
        subprocess.run(command, check=False)


def stop(session: HostSession, *, run_id: str, grace_s: float,
         evaluated: bool) -> Iterator[RunOutput | EvaluationOutput]:
    connection = session.connect()
    run = overview.find(connection, run_id)
    if evaluated:
        view = evaluations.find(connection, run)
        session.interrupted = f"{view.name} may have been asked to stop: inv status"
        evaluations.stop(connection, view)
        yield EvaluationOutput(evaluations.find(connection, run, view.name))
        return
    if run.state is RunState.RUNNING:
        session.interrupted = (f"{run.run_id} may have been asked to save and stop, which it does without this "
                               "command: inv status")
        session.say(f"asking {run.run_id} to save and stop (up to {grace_s:.0f} s)")
    overview.stop(connection, run, grace_s)
    yield RunOutput(overview.find(connection, run.run_id))


def follow_run(session: HostSession, *, run_id: str) -> Iterator[EventOutput | RunOutput]:
    connection = session.connect()
    run = overview.find(connection, run_id)
    steps = run.spec.train.max_steps if run.spec else 0
    shown_s = 0.0
    for event, records in watch.follow(connection, session.registry, run.run_id, from_start=True, say=session.say):
        if event.kind == "step":  # all are in the Journal; one a second is shown
            if event.time_s - shown_s < 1 and event.data.get("step") != steps:
                continue
            shown_s = event.time_s
        yield EventOutput(event, steps, tuple(records))
    yield RunOutput(overview.find(connection, run.run_id))


def _spec(run: RunView, host: Host) -> RunSpec:
    if run.spec is None:
        raise UsageError(f"{run.run_id} has no readable config.json", remedy=f"inv logs --host {host.name}")
    return run.spec
