"""Overview: the runs of a host, as facts from the host interpreted by the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from rdtops import answers
from rdtops.answers import GpuUsage, RunFacts
from rdtops.contract.journal import Event, parse
from rdtops.contract.run import Checkpoint, RunEnd, RunPaths, RunSpec, RunState, state_of
from rdtops.errors import ConfigError, RunError
from rdtops.hostlib import fields
from rdtops.hostlib.names import RunId
from rdtops.launcher import JobState
from rdtops.on_host import checkpoint_verifier, run_reporter
from rdtops.runs import jobs
from rdtops.ssh.command import quoted
from rdtops.ssh.connection import Connection
from rdtops.supervisor import evidence_on_host

VERIFY_S = 4 * 3600.0


@dataclass(frozen=True)
class RunView:
    """One run of one host at one moment."""

    run_id: RunId
    host: str
    state: RunState
    spec: RunSpec | None  # None when its config.json cannot be read
    exit_code: int | None
    step: int
    max_steps: int
    loss: float | None
    samples_per_s: float | None
    eta_s: float | None
    last_checkpoint: str
    last_event_s: float  # Unix time of the host
    log_tail: str
    error: str
    job: JobState | None = None  # of a cluster's scheduler; None where there is none
    last_checkpoint_s: float = 0.0  # when it was complete, Unix time of the host; 0.0 while there is none
    gpus: tuple[GpuUsage, ...] = ()  # those it uses; only while it runs, and only for `status` and `watch`
    silent_since_s: float = 0.0  # Unix time since when nothing was written, before the first step; else 0.0
    problem: str = ""  # why some of this is unknown; other runs are not affected
    mfu: float | None = None  # useful FLOPs, as a share of what the GPU can do; None: not known, or a CPU

    @property
    def end(self) -> RunEnd:
        """Return the end of the run, as plugins get it."""
        lines = self.log_tail.strip().splitlines() if self.state in (RunState.FAILED, RunState.LOST) else []
        error = self.error or (self.job.words if self.job and self.job.cause else lines[-1] if lines else "")
        return RunEnd(self.state, self.step, self.max_steps, self.loss, self.exit_code, error, self.last_event_s)

    def to_json(self) -> dict[str, Any]:
        shown = {k: v for k, v in vars(self).items() if k not in ("spec", "log_tail", "gpus", "job")}
        train = self.spec.train if self.spec else None
        job = {"id": self.job.id, "phase": self.job.phase.value, "cause": self.job.cause.value,
               "words": self.job.words} if self.job else None
        return {**shown, "state": self.state.value, "job": job, "gpus": [asdict(gpu) for gpu in self.gpus],
                "preset": train.preset if train else None, "train_digest": train.digest if train else None}


def list_runs(connection: Connection, *, gpus: bool = False) -> list[RunView]:
    """List the runs of the host's workspace, oldest first; with `gpus`, the GPUs of the running ones too."""
    answer = connection.call(run_reporter, {"op": "list", "workspace": connection.workspace, "gpus": gpus})
    found, cards = answers.runs(connection.host.name, answer), answers.gpus(answer)
    states = jobs.states(connection, (jobs.training_job(RunPaths(connection.workspace, run.run_id)) for run in found))
    return [view(connection.host.name, facts, cards, states.get(facts.run_id)) for facts in found]


def views(host: str, answer: Mapping[str, Any]) -> list[RunView]:
    """Parse the answer of the program on the host to `list`. Raises RemoteError."""
    return [view(host, facts, answers.gpus(answer)) for facts in answers.runs(host, answer)]


def find(connection: Connection, run_id: str = "") -> RunView:
    """Return the run of that id (a unique beginning or end will do), by default the newest that is running,
    else the newest. Raises RunError."""
    return pick(connection, list_runs(connection), run_id)


def pick(connection: Connection, found: list[RunView], run_id: str = "") -> RunView:
    """Choose among `found` as `find` does."""
    by_name = {run.run_id: run for run in found}
    running = [run.run_id for run in found if run.state is RunState.RUNNING]
    return by_name[choose(connection.host.name, connection.workspace, list(by_name), run_id, running)]


def choose(host: str, workspace: str, names: Sequence[RunId], run_id: str, running: Sequence[RunId]) -> RunId:
    """Choose among the names of a host's runs, oldest first, as `find` does."""
    if not names:
        raise RunError(f"{host}: there is no run in {workspace}/runs", remedy=f"inv deploy check train --host {host}")
    matching = evidence_on_host.matching(names, run_id, running)
    if len(matching) != 1:
        which = "no run" if not matching else "several runs"
        raise RunError(f"{host}: {which} matches {run_id!r}; newest: {', '.join(names[-5:])}",
                       remedy=f"inv status --host {host}")
    return matching[0]


def paths(connection: Connection, run: RunView) -> RunPaths:
    return RunPaths(connection.workspace, run.run_id)


def checkpoints(connection: Connection, run: RunView) -> tuple[list[Checkpoint], list[str]]:
    """List the valid checkpoints of a run by step, and the names of those without a valid manifest."""
    answer = connection.call(run_reporter, {"op": "checkpoints", "workspace": connection.workspace,
                                            "run_id": run.run_id})
    return answers.checkpoints(run.host, answer, paths(connection, run))


def write_file(connection: Connection, path: PurePosixPath, text: str, *, make_folder: bool = False) -> None:
    """Write a file of the host, whole or not at all."""
    whole, part = quoted(str(path)), quoted(f"{path}.tmp")
    first = f"mkdir -p {quoted(str(path.parent))} && " if make_folder else ""
    connection.run_shell(f"{first}cat > {part} && mv {part} {whole}", stdin=text.encode())


def digest_states(connection: Connection, run: RunView, *, verify: bool) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return by name, for everything below checkpoints/: verified, unverified, damaged or unfinished, and the problems.
    With `verify` every byte is read on the host (at the speed of its disk), else known digests of unchanged files are
    used."""
    request = {"folder": str(paths(connection, run).checkpoints), "recompute": verify, "names": []}
    answer = connection.call(checkpoint_verifier, request, timeout_s=VERIFY_S if verify else 60.0)
    return answers.digest_states(answer)


def stop(connection: Connection, run: RunView, grace_s: float = 600.0) -> None:
    """Ask the ranks to save and exit, and kill what remains. Raises RunError when it is not running or does not end."""
    if not run.state.can_be_stopped:
        raise RunError(f"{run.host}: {run.run_id} is {run.state.value}, not running")
    jobs.stop(connection, jobs.training_job(paths(connection, run)), grace_s)


def view(host: str, facts: RunFacts, cards: tuple[GpuUsage, ...] = (), job: JobState | None = None) -> RunView:
    """Interpret the host's facts of a run. `cards`: all GPUs of the host; `job`: what a cluster's scheduler says."""
    spec, problem = _spec_of(facts)
    events = parse(facts.journal_tail.encode("utf-8", "replace"))[0]
    latest = _latest(events)
    checkpoint, failed = latest.get("checkpoint"), latest.get("failed")
    step = latest["step"].data if "step" in latest else {}
    telling = (latest[kind] for kind in ("step", "checkpoint", "stopped", "failed", "finished") if kind in latest)
    by_files = RunState.UNKNOWN if facts.problem else state_of(
        exit_code=facts.exit_code, process_alive=facts.alive, launched=facts.launched or jobs.is_known(job),
        stop_requested=facts.stop_requested or "stopped" in latest)
    return RunView(
        run_id=facts.run_id, host=host, spec=spec, exit_code=facts.exit_code, job=job,
        state=jobs.state_of(job, by_files),
        step=max((fields.whole(e.data.get("step")) or 0 for e in telling), default=0),
        max_steps=spec.train.max_steps if spec else 0, loss=fields.number(step.get("loss")),
        samples_per_s=fields.number(step.get("samples_per_s")), mfu=fields.number(step.get("mfu")),
        eta_s=fields.number(step.get("eta_s")),
        last_checkpoint=fields.text(checkpoint.data.get("name")) if checkpoint else "",
        last_event_s=events[-1].time_s if events else _first_time(facts.journal_head), log_tail=facts.log_tail,
        error=str(failed.data.get("error", "")) if failed else "",
        last_checkpoint_s=checkpoint.time_s if checkpoint else 0.0,
        gpus=tuple(card for card in cards if card.uuid in facts.gpus), problem=problem,
        silent_since_s=_silent_since(latest))


def _spec_of(facts: RunFacts) -> tuple[RunSpec | None, str]:
    """Return the spec, and why it, or everything else, is not known."""
    if facts.problem:
        return None, facts.problem
    try:
        spec = RunSpec.from_json(facts.config or "")
    except ConfigError as error:
        return None, error.message
    if spec.run_id != facts.run_id:
        return None, f"its config.json is that of {spec.run_id}"
    return spec, ""


def _latest(events: list[Event]) -> dict[str, Event]:
    """Return the last event of each kind since the last launch, by `inv train` or by hand."""
    found: dict[str, Event] = {}
    for event in events:
        if event.kind in ("launched", "attempt", "started"):
            found = {k: e for k, e in found.items() if k == "checkpoint"}
        found[event.kind] = event
    return found


def _silent_since(latest: Mapping[str, Event]) -> float:
    """Return since when a run is silent that has no step yet; 0.0 for any other."""
    silent, heard = latest.get("silent"), latest.get("heard")
    if silent is None or "step" in latest or (heard and heard.time_s >= silent.time_s):
        return 0.0
    return silent.time_s - (fields.number(silent.data.get("silent_s")) or 0.0)


def _first_time(head: str) -> float:
    events = parse(head.encode("utf-8", "replace"))[0]
    return events[0].time_s if events else 0.0
