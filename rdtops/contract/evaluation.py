"""Evaluation: its request (EvalSpec), its files (EvalPaths) and its result (Evaluation)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from rdtops.contract.config import CHOICES, nearest, wrong_kinds
from rdtops.contract.run import RunPaths
from rdtops.errors import ConfigError
from rdtops.hostlib import names
from rdtops.hostlib.fields import loads
from rdtops.hostlib.names import EvaluationName, RunId

BENCHMARKS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
LONGEST_EPISODE = 1000  # steps, settling included; LIBERO's simulator ends there
INITIAL_STATES = 50  # of every task
_WEIGHTS, _EMA = "model.safetensors", "ema"


@dataclass(frozen=True)
class Protocol:
    """Everything that decides the result, besides the checkpoint and the code."""

    benchmark: str = "libero_90"
    tasks: str = ""  # '': all; a number: that many from the first; else names or parts of names, separated by commas
    trials: int = 20  # of each task; trial i starts from initial state i
    max_steps: int = 0  # of a trial; 0: the benchmark's usual limit
    exec_horizon: int = 16  # actions of a prediction that are executed before the next one
    seed: int = 0  # of the policy's noise
    codec: str = ""  # '': what the checkpoint says
    record_video: bool = False


@dataclass(frozen=True)
class EvalSpec:
    """The content of `runs/<run_id>/eval/<name>/eval.json`. All paths are absolute paths on the host."""

    run_id: RunId
    host: str
    created_at: str  # ISO 8601, UTC
    workspace: str
    release: str  # the folder of the code that evaluates
    snapshot: str
    checkpoint: str  # its folder, `ema/` inside
    digest: str  # of its manifest; '' where there is none
    assets: Mapping[str, str]  # text_encoder, vision_encoder -> folder
    device: str  # cuda, cuda:1 or cpu
    mixed_precision: str  # as trained: bf16, fp16 or no
    protocol: Protocol = field(default_factory=Protocol)
    processes: int = 1  # in parallel; their number does not change the result
    accept_changed: str = ""  # encoders that may differ from those of the training, as in TrainConfig

    @property
    def name(self) -> EvaluationName:
        """`step_002000-libero_90-1f3a9c20`. The same request has the same folder, so a repeated one continues."""
        others = [self.accept_changed, dict(self.assets)] if self.accept_changed else []
        request = json.dumps([asdict(self.protocol), self.checkpoint, self.digest, *others], sort_keys=True)
        return EvaluationName(f"{PurePosixPath(self.checkpoint).name}-{self.protocol.benchmark}-"
                              f"{hashlib.md5(request.encode()).hexdigest()[:8]}")

    @property
    def paths(self) -> EvalPaths:
        return EvalPaths(RunPaths(self.workspace, self.run_id), self.name)

    def to_json(self) -> str:
        values = {"name": self.name, **asdict(self), "assets": dict(self.assets)}
        if not self.accept_changed:  # so that a release before 2026-11-28 reads it, after a rollback
            del values["accept_changed"]
        return json.dumps(values, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> EvalSpec:
        """Parse eval.json. Raises ConfigError when the text is anything else."""
        try:
            values: dict[str, Any] = {**loads(text)}
            values.pop("name", None)
            spec = cls(**{**values, "run_id": RunId(names.component(values["run_id"])),
                          "protocol": Protocol(**values["protocol"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"not an evaluation's eval.json: {error!r}") from error
        if problems := [*wrong_kinds(spec.protocol), *wrong_kinds(spec)]:
            raise ConfigError(f"not an evaluation's eval.json: {'; '.join(problems)}")
        return spec


@dataclass(frozen=True)
class EvalPaths:
    """The files of one evaluation on the host."""

    run: RunPaths
    name: str

    @property
    def root(self) -> PurePosixPath:
        return self.run.eval / self.name

    @property
    def spec(self) -> PurePosixPath:
        return self.root / "eval.json"

    @property
    def script(self) -> PurePosixPath:
        return self.root / "eval.sh"

    @property
    def trials(self) -> PurePosixPath:
        """One line for each trial that ended."""
        return self.root / "trials.jsonl"

    @property
    def report(self) -> PurePosixPath:
        return self.root / "report.json"

    @property
    def videos(self) -> PurePosixPath:
        return self.root / "videos"

    @property
    def log(self) -> PurePosixPath:
        return self.root / "eval.log"

    @property
    def exit(self) -> PurePosixPath:
        return self.root / "exit"

    @property
    def process(self) -> PurePosixPath:
        return self.root / "process"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that has ended. Paths are absolute on the host."""

    name: EvaluationName
    folder: str
    report: str
    digest: str  # MD5 of report.json
    checkpoint: str  # step_002000
    benchmark: str
    successes: int
    trials: int  # without those that ended with an error of the simulator
    errors: int


def checked(protocol: Protocol) -> Protocol:
    """Return the protocol with the benchmark's step limit filled in. Raises ConfigError naming the invalid values."""
    p = protocol
    if p.benchmark not in BENCHMARKS:
        raise ConfigError(f"there is no benchmark {p.benchmark!r}{nearest(p.benchmark, BENCHMARKS)}; "
                          f"benchmarks: {', '.join(BENCHMARKS)}")
    p = replace(p, max_steps=p.max_steps or BENCHMARKS[p.benchmark])
    problems = [f"--{name} {value}: must be from 1 to {most}" for name, value, most in (
        ("trials", p.trials, INITIAL_STATES), ("max-steps", p.max_steps, LONGEST_EPISODE - 10),
        ("exec-horizon", p.exec_horizon, LONGEST_EPISODE)) if not 1 <= value <= most]
    if p.seed < 0:
        problems.append(f"--seed {p.seed}: must not be negative")
    if p.codec and p.codec not in CHOICES["codec"]:
        problems.append(f"--codec {p.codec}: must be one of {', '.join(CHOICES['codec'])}")
    if problems:
        raise ConfigError("evaluation: " + "; ".join(problems))
    return p


def checkpoint_folder(path: str) -> str:
    """Return the folder of a checkpoint, named by itself, by its ema/, or by its ema/model.safetensors."""
    folder = PurePosixPath(path)
    if folder.name == _WEIGHTS:
        folder = folder.parent
    return str(folder.parent if folder.name == _EMA else folder)
