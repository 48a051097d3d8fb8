"""Run: its request (RunSpec), its files (RunPaths) and its state (RunState)."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

from rdtops.contract.config import TrainConfig, wrong_kinds
from rdtops.errors import ConfigError
from rdtops.hostlib import fields, files, names
from rdtops.hostlib.names import CheckpointName, RunId

ASSETS = ("dataset", "pretrained", "text_encoder", "vision_encoder")


@dataclass(frozen=True)
class RunSpec:
    """The content of `runs/<run_id>/config.json`. All paths are absolute paths on the host."""

    run_id: RunId
    host: str
    created_at: str  # ISO 8601, UTC
    workspace: str
    release: str  # the folder of the deployed code
    snapshot: str  # its name: git revision and digest
    assets: Mapping[str, str]  # role of ASSETS -> folder; no `pretrained` when training from scratch
    train: TrainConfig

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.workspace, self.run_id)

    def to_json(self) -> str:
        """Return config.json, with a `train_digest` that is equal exactly when two runs have the same configuration."""
        return json.dumps({**asdict(self), "assets": dict(self.assets), "train_digest": self.train.digest}, indent=1,
                          ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """Parse config.json. Raises ConfigError when the text is anything else."""
        try:
            values: dict[str, Any] = fields.loads(text)
            values = {**values, "run_id": RunId(names.component(values["run_id"])),
                      "train": TrainConfig.from_json(values["train"])}
            values.pop("train_digest", None)  # follows from `train`, which a person may have edited
            spec = cls(**values)
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"not a run's config.json: {error!r}") from error
        if problems := wrong_kinds(spec):
            raise ConfigError(f"not a run's config.json: {'; '.join(problems)}")
        return spec

    @classmethod
    def load(cls, path: str | Path) -> RunSpec:
        """Read config.json. Raises OSError or ConfigError."""
        return cls.from_json(files.head_of(path).decode("utf-8", "replace"))


@dataclass(frozen=True)
class RunPaths:
    """The files of one run on the host. Joined as POSIX paths, so that the laptop may be anything."""

    workspace: str
    run_id: str

    @property
    def root(self) -> PurePosixPath:
        return PurePosixPath(self.workspace) / "runs" / self.run_id

    @property
    def config(self) -> PurePosixPath:
        return self.root / "config.json"

    @property
    def script(self) -> PurePosixPath:
        return self.root / "launch.sh"

    @property
    def journal(self) -> PurePosixPath:
        return self.root / "journal.jsonl"

    @property
    def log(self) -> PurePosixPath:
        return self.root / "train.log"

    @property
    def metrics(self) -> PurePosixPath:
        """The curves of the training, one JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def gpus(self) -> PurePosixPath:
        """The use of its GPUs, a sample a minute."""
        return self.root / "gpus.jsonl"

    @property
    def checks(self) -> PurePosixPath:
        """The results of `inv check` before the newest launch, as its --json."""
        return self.root / "checks.json"

    @property
    def exit(self) -> PurePosixPath:
        return self.root / "exit"

    @property
    def stop(self) -> PurePosixPath:
        """A file that exists once a stop was requested."""
        return self.root / "stop"

    @property
    def process(self) -> PurePosixPath:
        """`pid starttime boot_id` of the launch script: together they identify one process."""
        return self.root / "process"

    @property
    def checkpoints(self) -> PurePosixPath:
        return self.root / "checkpoints"

    @property
    def eval(self) -> PurePosixPath:
        return self.root / "eval"


class RunState(str, Enum):
    PREPARED = "prepared"  # the folder exists, nothing was launched
    QUEUED = "queued"  # in a cluster's queue: for the first time, or again after a preemption or at a time limit
    RUNNING = "running"
    FINISHED = "finished"  # exit code 0
    FAILED = "failed"  # exit code other than 0
    STOPPED = "stopped"  # ended on request: `inv stop`, or a signal
    UNKNOWN = "unknown"  # the cluster's scheduler does not answer: it may be running
    LOST = "lost"  # no exit code and no process: killed, or the host was rebooted

    @property
    def ended(self) -> bool:
        return self in (RunState.FINISHED, RunState.FAILED, RunState.STOPPED, RunState.LOST)

    @property
    def can_be_stopped(self) -> bool:
        return self in (RunState.QUEUED, RunState.RUNNING, RunState.UNKNOWN)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has a valid manifest. `path` is absolute on the host."""

    step: int
    name: CheckpointName
    path: str
    size_bytes: int
    digest: str  # of its manifest
    heldout_loss: float | None = None  # validation loss of its EMA weights; None where not measured

    @classmethod
    def told(cls, row: object, checkpoints: PurePosixPath | None = None) -> Checkpoint:
        """Parse a row that another machine sent. The step and, in the folder `checkpoints`, the path follow from the
        name. Raises BadName, and nothing else."""
        values = fields.table(row)
        name = names.checkpoint_name(values.get("name"))
        return cls(names.step_of(name), name, str(checkpoints / name) if checkpoints else "",
                   max(fields.whole(values.get("size_bytes")) or 0, 0), fields.text(values.get("digest")),
                   fields.number(values.get("heldout_loss")))


@dataclass(frozen=True)
class RunEnd:
    """The end of a run, as its files on the host show it."""

    state: RunState
    step: int  # the last one that it reported
    max_steps: int
    loss: float | None
    exit_code: int | None  # None for a run that was lost
    error: str  # of a run that failed, '' when it left no message
    time_s: float  # of its last event, Unix time of the host


def best_of(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """Return the checkpoint with the lowest validation loss, of equal ones the earliest; None without any loss."""
    measured = [c for c in checkpoints if c.heldout_loss is not None]
    return min(measured, key=lambda c: (c.heldout_loss, c.step), default=None)


@dataclass(frozen=True)
class Retention:
    """The rule by which checkpoints are kept: the last ones, those of every `every_steps` steps, and the best. `last`
    and `best` are at least 1, so that neither the newest nor the best is ever deleted."""

    last: int
    every_steps: int = 0  # 0: none
    best: int = 1

    def __post_init__(self) -> None:
        assert self.last >= 1
        assert self.best >= 1

    def surplus(self, found: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Return those of `found` (oldest first) that no rule keeps."""
        kept = {c.step for c in found[-self.last:]}
        kept |= {c.step for c in found if self.every_steps and c.step % self.every_steps == 0}
        rest = list(found)
        for _ in range(self.best):
            best = best_of(rest)
            if best:
                kept.add(best.step)
                rest.remove(best)
        return [c for c in found if c.step not in kept]


def new_run_id(name: str, now_s: float | None = None) -> RunId:
    """Return an id like `20261124-101530-tiny-3fa9`: sorted by time (UTC), unique by its last four digits."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
    return RunId(f"{stamp}-{re.sub(r'[^a-z0-9_-]', '-', name.lower())}-{secrets.token_hex(2)}")


def checkpoint_name(step: int) -> CheckpointName:
    return CheckpointName(f"step_{step:06d}")


def checkpoint_called(which: str) -> str:
    """Return the name of a checkpoint given by its name or its step: 2000 is step_002000."""
    step = fields.decimal(which)
    return which if step is None or step < 0 else checkpoint_name(step)


def chosen(found: Sequence[Checkpoint], which: str) -> Checkpoint | None:
    """Return the latest, the best, or the one of that step or name of `found` (oldest first); None where none is."""
    if which == "latest":
        return found[-1] if found else None
    if which == "best":
        return best_of(found)
    return next((checkpoint for checkpoint in found if checkpoint.name == checkpoint_called(which)), None)


def state_of(*, exit_code: int | None, process_alive: bool, launched: bool, stop_requested: bool) -> RunState:
    """Decide the state of a run from the exit file, the process table and the Journal. No other code decides it."""
    if process_alive:
        return RunState.RUNNING
    if not launched and exit_code is None:
        return RunState.PREPARED
    if exit_code == 0:
        return RunState.FINISHED
    if stop_requested:
        return RunState.STOPPED
    return RunState.LOST if exit_code is None else RunState.FAILED
