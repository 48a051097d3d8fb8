"""Parse what the programs on a host answer. Here and nowhere else does a string of a host become a name that paths are
made of; what does not match is refused with the host's name. Facts of one run that make no sense are the problem of
that run alone. Pure."""

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
    """One GPU of a host at one moment. A number is None where the driver does not know it."""

    index: int
    uuid: str
    name: str
    memory_used_mib: int | None
    memory_total_mib: int | None
    utilization_percent: int | None
    temperature_c: int | None
    power_w: float | None


@dataclass(frozen=True)
class RunFacts:
    """What the files and processes of one run say. `problem`: why they say nothing, '' where they do."""

    run_id: RunId
    config: str | None  # config.json; None: the one that the question named
    exit_code: int | None
    alive: bool
    launched: bool
    stop_requested: bool
    journal_head: str
    journal_tail: str
    log_tail: str
    gpus: tuple[str, ...]  # UUIDs of those it uses
    problem: str


@dataclass(frozen=True)
class EvaluationFacts:
    """What the files and processes of one evaluation say."""

    run_id: RunId
    name: EvaluationName
    spec: str  # eval.json
    exit_code: int | None
    alive: bool
    launched: bool
    stop_requested: bool
    outcomes: Mapping[str, int]  # success, failure, error -> trials that ended so
    report: str  # report.json
    log_tail: str


def runs(host: str, answer: Mapping[str, Any]) -> list[RunFacts]:
    """Parse every run of the workspace, oldest first. Raises RemoteError."""
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
    """Parse the GPUs; a row without an index is left out."""
    return tuple(_gpus(answer))


def gpu_warning(answer: Mapping[str, Any]) -> str:
    """What nvidia-smi says besides its GPUs, '' where it says nothing else."""
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
    """Parse the checkpoints with a valid manifest, by step, and the names of what else is there, to be shown only.
    Raises RemoteError."""
    whole = [_checkpoint(host, row, paths) for row in fields.rows(answer.get("checkpoints"))]
    return sorted(whole, key=lambda c: c.step), fields.words(answer.get("unfinished"))


def _checkpoint(host: str, row: Mapping[str, Any], paths: RunPaths) -> Checkpoint:
    _parsed(host, names.digest, row.get("digest"))
    return _parsed(host, lambda told: Checkpoint.told(told, paths.checkpoints), row)


def digest_states(answer: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name -> one of DIGEST_STATES, and what is wrong; the names are only compared and shown."""
    states = ((name, fields.table(told)) for name, told in fields.table(answer.get("states")).items())
    return {name: (state if (state := fields.text(told.get("state"))) in DIGEST_STATES else "unverified",
                   tuple(fields.words(told.get("wrong")))) for name, told in states}


def evaluations(host: str, answer: Mapping[str, Any]) -> list[EvaluationFacts]:
    """Oldest first. Raises RemoteError."""
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
    """Processes, as a stop tells of them."""
    found = answer.get(key)
    return [pid for pid in map(fields.whole, found) if pid is not None] if isinstance(found, list) else []


def platform(host: str, answer: Mapping[str, Any]) -> dict[str, str]:
    """The `python`, `machine` and `glibc` that wheels are chosen for. Raises RemoteError."""
    return {"python": _parsed(host, names.python_version, answer.get("python")),
            "machine": _parsed(host, names.machine, answer.get("machine")), "glibc": fields.text(answer.get("glibc"))}


def run_id(host: str, word: object) -> RunId:
    """Raises RemoteError."""
    return _parsed(host, names.run_id, word)


def checkpoint_event(event: Event, paths: RunPaths) -> Checkpoint:
    """Of a Journal's `checkpoint`. Raises BadName."""
    return Checkpoint.told(event.data, paths.checkpoints)


def evaluation_event(event: Event, paths: RunPaths) -> Evaluation:
    """Of a Journal's `eval_finished`. Where its files lie follows from its name. Raises BadName."""
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
                          remedy=f"ssh {host}   # is that host as it should be? Its answer was not used") from error
