"""Loss comparison: which of the two losses gives higher success rates in LIBERO's simulator.

    python -m proofs.closed_loop.loss_comparison

Records a few demonstrations of the drawer task, trains the tiny model on them from scratch with each loss and seed, and
evaluates the EMA weights from initial states that no demonstration had. One JSON row for each policy. Images are
blank: the comparison is about learning actions, and a rollout then needs no rendering.

Trial i of every policy has the same start, the same world and the same noise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from proofs.closed_loop.recording import Recording, record
from proofs.closed_loop.scripted_experts import EXPERTS
from rdtops.contract.config import CHOICES, TrainConfig, override, preset
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec, checkpoint_name
from rdtops.errors import RdtopsError, RunError
from rdtops.hostlib.names import RunId
from rdtops.trainer import tiny
from rdtops.trainer.data.actions import codec
from rdtops.trainer.loop import failures
from rdtops.trainer.model import encoders
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy
from rdtops.trainer.simulation import simulator
from rdtops.trainer.simulation.rollout import Driver, rollout, wilson
from rdtops.trainer.simulation.simulator import Simulator, Task

FIRST_UNSEEN = 30  # demonstrations use the initial states before this one, trials those from it on
LONGEST = 200  # steps of a trial; the expert takes about 40
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Comparison:
    """The settings of the comparison."""

    demos: int = 6
    noise: float = 0.2
    seeds: int = 2
    steps: int = 600  # of a training
    every: int = 200  # steps; the policy of each such step is evaluated
    trials: int = 20
    exec_horizon: int = 16


@dataclass(frozen=True)
class Policy:
    loss: str
    seed: int


@dataclass(frozen=True)
class ComparisonRow:
    """The success rate of one policy. `action_mse`: of sampled actions against the demonstrations' own."""

    loss: str
    seed: int
    step: int
    successes: int
    trials: int
    wilson_95: tuple[float, float]
    steps_to_success: tuple[int | None, ...]  # of every trial; None: it failed
    action_mse: float | None
    train_s: float
    evaluate_s: float


def compare(folder: Path, request: Comparison, processes: int = 1) -> Iterator[ComparisonRow]:
    """Compare the losses. Everything is written below `folder`. Raise RunError when a training fails."""
    task = simulator.tasks("libero_90", next(iter(EXPERTS)))[0]
    tiny.make(folder / "assets")
    record(folder / "demonstrations" / "drawer_demo.hdf5", Recording(
        task, request.demos, FIRST_UNSEEN, noise=request.noise, blank_images=True), processes)
    trained = [Policy(loss, seed) for seed in range(request.seeds) for loss in CHOICES["loss"]]
    policies = [Policy(UNTRAINED, 0), *trained]
    with multiprocessing.get_context("spawn").Pool(min(processes, len(policies))) as pool:
        for rows in pool.imap(partial(_rows, folder, request, task), policies):
            if isinstance(rows, RdtopsError):
                raise rows
            yield from rows


def _rows(folder: Path, request: Comparison, task: Task, policy: Policy) -> list[ComparisonRow] | RdtopsError:
    try:
        return measure(folder, request, task, policy)
    except RdtopsError as error:
        return error


def measure(folder: Path, request: Comparison, task: Task, policy: Policy) -> list[ComparisonRow]:
    """Train, and evaluate every checkpoint."""
    torch.set_num_threads(1)
    world = Simulator(task, images=False)
    if policy.loss == UNTRAINED:
        torch.manual_seed(policy.seed)
        weights = {0: RDTPolicy(ARCHITECTURES["tiny"]).eval()}
        errors, train_s = {}, 0.0
    else:
        spec = _spec(folder, request, policy)
        train_s = train(spec)
        checkpoints = Path(spec.paths.checkpoints)
        weights = {step: RDTPolicy.from_pretrained(checkpoints / checkpoint_name(step) / "ema").eval()
                   for step in range(request.every, request.steps + 1, request.every)}
        errors = {e.data["step"]: e.data["action_mse"] for e in Journal(Path(spec.paths.journal)).read()
                  if e.kind == "sample"}
    conditions = _conditions(folder, world.instruction)
    rows = []
    for step, module in weights.items():
        began = time.monotonic()
        driver = Driver(module, conditions, codec("delta_velocity"), world.instruction, policy.seed)
        steps = tuple(evaluate(world, driver, request))
        successes = sum(s is not None for s in steps)
        rows.append(ComparisonRow(policy.loss, policy.seed, step, successes, request.trials,
                                  wilson(successes, request.trials), steps,
                                  errors.get(step), round(train_s, 1), round(time.monotonic() - began, 1)))
    world.close()
    return rows


def evaluate(world: Simulator, driver: Driver, request: Comparison) -> Iterator[int | None]:
    states = world.task.initial_states()
    for trial in range(FIRST_UNSEEN, FIRST_UNSEEN + request.trials):
        yield rollout(world, driver, states[trial], trial, request.exec_horizon, LONGEST)


# its training --------------------------------------------------------------------------------------------------------

def _spec(folder: Path, request: Comparison, policy: Policy) -> RunSpec:
    return run_folder(folder / f"{policy.loss}-{policy.seed}",
                      {"dataset": str(folder / "demonstrations"), **_encoders(folder)}, _config(request, policy))


def run_folder(workspace: Path, assets: dict[str, str], config: TrainConfig) -> RunSpec:
    """Return the spec of a training on this machine, in a separate workspace: each has one training at a time."""
    spec = RunSpec(RunId(workspace.name), "here", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), str(workspace),
                   str(Path.cwd()), "closed-loop", assets, config)
    Path(spec.paths.checkpoints).mkdir(parents=True)
    Path(spec.paths.config).write_text(spec.to_json())
    return spec


def _config(request: Comparison, policy: Policy) -> TrainConfig:
    settings: dict[str, Any] = {
        "loss": policy.loss, "seed": policy.seed, "from_scratch": True, "num_processes": 1,
        "batch_size_per_process": 16, "max_steps": request.steps, "checkpoint_every_steps": request.every,
        "checkpoints_total_limit": request.steps // request.every, "sample_every_steps": request.every,
        "heldout_share": 0,
        "lr_schedule": "cosine", "image_augmentation": False, "vision_cache_gib": 1, "condition_dropout": 0}
    return override(preset("tiny"), [f"{key}={value}" for key, value in settings.items()])


def train(spec: RunSpec, threads: int = 1) -> float:
    """Run the bundled trainer in a separate process. Return its duration in seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "proofs.closed_loop.keypoint_trainer", str(spec.paths.config)], check=False,
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise RunError(f"the training {spec.run_id} failed: {(done.stderr or done.stdout)[-2000:].strip()}")
    return time.monotonic() - began


def _conditions(folder: Path, instruction: str) -> Conditions:
    cpu, assets = torch.device("cpu"), _encoders(folder)
    encoded = encoders.encode_instructions(assets["text_encoder"], [instruction], folder / "instructions" /
                                           str(os.getpid()), cpu)
    return Conditions(encoded, assets["vision_encoder"], codec("delta_velocity").control_hz, cpu, torch.float32)


def _encoders(folder: Path) -> dict[str, str]:
    assets = folder / "assets"
    return {"text_encoder": str(assets / "t5-tiny"), "vision_encoder": str(assets / "siglip-tiny")}


def main(arguments: list[str] | None = None) -> int:
    options = vars(_parser().parse_args(arguments))
    processes = options.pop("processes")
    try:
        with tempfile.TemporaryDirectory() as folder:
            for row in compare(Path(folder), Comparison(**options), processes):
                sys.stdout.write(json.dumps(asdict(row)) + "\n")
                sys.stdout.flush()
    except RdtopsError as error:
        return failures.complain(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proofs.closed_loop.loss_comparison",
                                     description="Compare the two losses in closed loop, in LIBERO's simulator.")
    usual = Comparison()
    parser.add_argument("--demos", type=int, default=usual.demos, help="demonstrations to learn from")
    parser.add_argument("--noise", type=float, default=usual.noise, help="of their motion, in action units")
    parser.add_argument("--seeds", type=int, default=usual.seeds, help="trainings of each loss")
    parser.add_argument("--steps", type=int, default=usual.steps, help="of a training")
    parser.add_argument("--every", type=int, default=usual.every, help="evaluate after so many steps each")
    parser.add_argument("--trials", type=int, default=usual.trials, choices=range(1, 21), metavar="1-20")
    parser.add_argument("--exec-horizon", type=int, default=usual.exec_horizon,
                        help="actions to execute before the next decision")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
