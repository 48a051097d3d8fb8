"""Answers: parse the answers of host programs. Only here does a string from a host become a name that is used in paths;
a string that does not match is refused with the host's name. Invalid facts of one run are reported for that run alone.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from rdtops.contract.evaluation import Evaluation
from rdtops.contract.journal import Event
from rdtops.contract.run import Checkpoint, RunPaths
from rdtops.errors import RemoteError
from rdtops.hostlib import fields, names
from rdtops.hostlib.names import BadName, EvaluationName, RunId

T = TypeVar("T")
DIGEST_STATES = ("verified", "unverified", "damaged", "unfinished")


@dataclass(frozen=True)
class GpuUsage:
    """One GPU of a host at one moment. A number is None where the driver does not report it."""

    index: int
    uuid: str
    name: str
    memory_used_mib: int | None
    memory_total_mib: int | None
    utilization_percent: int | None
    temperature_c: int | None
    power_w: float | None


@dataclass(frozen=True)
class HostUsage:
    """The CPU, memory and disk of a host at one moment. A number is None where the host does not know it."""

    cpus: int | None = None
    load: float | None = None  # of the last minute
    cpu_busy_ticks: int | None = None  # of all cores, since the boot
    cpu_ticks: int | None = None  # of all cores, busy or not
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None  # in a container, its limit
    disk_free_bytes: int | None = None  # of the workspace, for its user
    disk_total_bytes: int | None = None

    def cpu_percent(self, before: HostUsage) -> float | None:
        """Return how busy the cores were since an earlier moment, of all of them together; None where that is not known
        or the host was booted in between."""
        passed = _difference(self.cpu_ticks, before.cpu_ticks)
        busy = _difference(self.cpu_busy_ticks, before.cpu_busy_ticks)
        return 100 * busy / passed if passed and busy is not None and 0 <= busy <= passed else None


def _difference(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


@dataclass(frozen=True)
class RunFacts:
    """The facts of one run from its files and processes. `problem`: why they cannot be read, '' where they can."""

    run_id: RunId
    config: str | None  # config.json; None: the same as the one that the request named
    exit_code: int | None
    alive: bool
    launched: bool
    stop_requested: bool
    journal_head: str
    journal_tail: str
    log_tail: str
    gpus: tuple[str, ...]  # UUIDs of the GPUs that it uses
    problem: str


@dataclass(frozen=True)
class EvaluationFacts:
    """The facts of one evaluation from its files and processes."""

    run_id: RunId
    name: EvaluationName
    spec: str  # eval.json
    exit_code: int | None
    alive: bool
    launched: bool
    stop_requested: bool
    outcomes: Mapping[str, int]  # success, failure, error -> number of trials
    report: str  # report.json
    log_tail: str


def runs(host: str, answer: Mapping[str, Any]) -> list[RunFacts]:
    """Parse every run of the workspace, oldest first. Raise RemoteError."""
    return [run(host, row) for row in fields.rows(answer.get("runs"))]


def run(host: str, row: object) -> RunFacts:
    facts = fields.table(row)
    config = facts.get("config")
    return RunFacts(
        _parsed(host, names.run_id, facts.get("run_id")), None if config is None else fields.text(config),
        fields.whole(facts.get("exit_code")), facts.get("alive") is True, facts.get("launched") is True,
        facts.get("stop_requested") is True, fields.text(facts.get("journal_head")),
        fields.text(facts.get("journal_tail")), fields.text(facts.get("log_tail")),
        tuple(fields.words(facts.get("gpus"))), fields.text(facts.get("problem")))


def gpus(answer: Mapping[str, Any]) -> tuple[GpuUsage, ...]:
    """Parse the GPUs; skip a row without an index."""
    return tuple(_gpus(answer))


def host_usage(answer: Mapping[str, Any]) -> HostUsage:
    """Parse the CPU, memory and disk of the host."""
    told = fields.table(answer.get("machine"))
    whole = {name: fields.whole(told.get(name)) for name in HostUsage.__dataclass_fields__ if name != "load"}
    return HostUsage(**whole, load=fields.number(told.get("load")))


def gpu_warning(answer: Mapping[str, Any]) -> str:
    """Return the other output of nvidia-smi beside its GPUs, '' where there is none."""
    return fields.text(answer.get("gpu_warning"))


def _gpus(answer: Mapping[str, Any]) -> Iterator[GpuUsage]:
    for row in fields.rows(answer.get("gpus")):
        index = fields.whole(row.get("index"))
        if index is not None:
            used, total, busy, warm = (fields.whole(row.get(key)) for key in (
                "memory_used_mib", "memory_total_mib", "utilization_percent", "temperature_c"))
            yield GpuUsage(index, fields.text(row.get("uuid")), fields.text(row.get("name")), used, total, busy, warm,
                           fields.number(row.get("power_w")))


def checkpoints(host: str, answer: Mapping[str, Any], paths: RunPaths) -> tuple[list[Checkpoint], list[str]]:
    """Parse the checkpoints with a valid manifest, by step, and the names of the other entries, which are only shown.
    Raise RemoteError."""
    whole = [_checkpoint(host, row, paths) for row in fields.rows(answer.get("checkpoints"))]
    return sorted(whole, key=lambda c: c.step), fields.words(answer.get("unfinished"))


def _checkpoint(host: str, row: Mapping[str, Any], paths: RunPaths) -> Checkpoint:
    _parsed(host, names.digest, row.get("digest"))
    return _parsed(host, lambda values: Checkpoint.told(values, paths.checkpoints), row)


def digest_states(answer: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Parse name -> one of DIGEST_STATES, and what is wrong; the names are only compared and shown."""
    states = ((name, fields.table(row)) for name, row in fields.table(answer.get("states")).items())
    return {name: (state if (state := fields.text(row.get("state"))) in DIGEST_STATES else "unverified",
                   tuple(fields.words(row.get("wrong")))) for name, row in states}


def evaluations(host: str, answer: Mapping[str, Any]) -> list[EvaluationFacts]:
    """Parse every evaluation, oldest first. Raise RemoteError."""
    return [_evaluation(host, row) for row in fields.rows(answer.get("evaluations"))]


def _evaluation(host: str, row: Mapping[str, Any]) -> EvaluationFacts:
    outcomes = fields.table(row.get("outcomes"))
    return EvaluationFacts(
        _parsed(host, names.run_id, row.get("run_id")), _parsed(host, names.evaluation_name, row.get("name")),
        fields.text(row.get("spec")), fields.whole(row.get("exit_code")), row.get("alive") is True,
        row.get("launched") is True, row.get("stop_requested") is True,
        {kind: fields.whole(outcomes.get(kind)) or 0 for kind in ("success", "failure", "error")},
        fields.text(row.get("report")), fields.text(row.get("log_tail")))


def pids(answer: Mapping[str, Any], key: str) -> list[int]:
    """Parse the process ids in the answer to a stop."""
    values = answer.get(key)
    return [pid for pid in map(fields.whole, values) if pid is not None] if isinstance(values, list) else []


def platform(host: str, answer: Mapping[str, Any]) -> dict[str, str]:
    """Parse the `python`, `machine` and `glibc` that wheels are chosen for. Raise RemoteError."""
    return {"python": _parsed(host, names.python_version, answer.get("python")),
            "machine": _parsed(host, names.machine, answer.get("machine")), "glibc": fields.text(answer.get("glibc"))}


def run_id(host: str, word: object) -> RunId:
    """Parse a run id. Raise RemoteError."""
    return _parsed(host, names.run_id, word)


def checkpoint_event(event: Event, paths: RunPaths) -> Checkpoint:
    """Parse the `checkpoint` event of a Journal. Raise BadName."""
    return Checkpoint.told(event.data, paths.checkpoints)


def evaluation_event(event: Event, paths: RunPaths) -> Evaluation:
    """Parse the `eval_finished` event of a Journal. Derive the paths of its files from its name. Raise BadName."""
    name = names.evaluation_name(event.data.get("name"))
    folder: PurePosixPath = paths.eval / name
    counts = (fields.whole(event.data.get(key)) or 0 for key in ("successes", "trials", "errors"))
    return Evaluation(name, str(folder), str(folder / "report.json"), fields.text(event.data.get("digest")),
                      fields.text(event.data.get("checkpoint")), fields.text(event.data.get("benchmark")), *counts)


def _parsed(host: str, parse: Callable[[object], T], word: object) -> T:
    try:
        return parse(word)
    except BadName as error:
        raise RemoteError(f"{host}: unexpected answer: {error}",
                          remedy=f"ssh {host}   # check that host; its answer was not used") from error
