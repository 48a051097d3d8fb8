"""Proof that what is trained here drives, from demonstrations to successes in LIBERO's simulator:

    inv bench closed-loop          # or: python -m rdtops.trainer.proof

Records demonstrations, trains a small RDT on them with the bundled trainer, and lets the averaged weights act from all
of the benchmark's initial states, of which no demonstration had one: those start where LIBERO draws them anew. Beside
it act an untrained policy, a demonstration's actions replayed without looking, the same policy in the dark, and, for a
task that needs eyes, the scripted expert itself when it does not know where the object lies.

Trial i of each has the same start, world and noise. Rows as `inv bench` prints them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdtops.contract.config import TrainConfig, override, preset
from rdtops.contract.run import RunSpec, checkpoint_name
from rdtops.errors import RdtopsError
from rdtops.trainer import encoders, eyes, failures, film, libero, simulator, tiny
from rdtops.trainer.actions import codec
from rdtops.trainer.bench import Row
from rdtops.trainer.closed_loop import run_folder, train
from rdtops.trainer.conditions import Conditions
from rdtops.trainer.expert import EXPERTS, PutSoupInBasket
from rdtops.trainer.rdt import ARCHITECTURES, RDTPolicy
from rdtops.trainer.record import Recording, record
from rdtops.trainer.rollout import Driver, rollout, wilson
from rdtops.trainer.simulator import SETTLING_STEPS, RobotState, Simulator, Task

TRAINED, UNTRAINED, REPLAYED, DARK, GUESSED = "trained", "untrained", "replayed", "in the dark", "expert guessing"
SEED = 0
SETTINGS = {"from_scratch": True, "num_processes": 1, "heldout_share": 0, "lr_schedule": "cosine", "warmup_steps": 50,
            "image_augmentation": False, "vision_cache_gib": 1, "condition_dropout": 0, "seed": SEED,
            "checkpoints_total_limit": 1}


@dataclass(frozen=True)
class Proof:
    """What is proved, and with how much."""

    name: str
    task: str  # of libero_90
    sighted: bool  # False: black images, the robot's state alone
    goal: float  # share of successes
    limit_minutes: float  # of its training, or, where it is sighted, all in all
    demos: int
    noise: float  # of the demonstrations' motion, in action units
    model: str
    batch: int
    steps: int
    learning_rate: float
    exec_horizon: int
    longest: int  # steps of a trial
    trials: int = 50
    eye_steps: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """What acts. Where all is black anyway, darkness changes nothing."""
        return (TRAINED, *((DARK,) if self.sighted else ()), UNTRAINED, REPLAYED, *((GUESSED,) if self.sighted else ()))


PROOFS = {p.name: p for p in (
    Proof("drawer", "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet", sighted=False, goal=0.98, limit_minutes=20,
          demos=50, noise=0.2, model="tiny", batch=16, steps=2000, learning_rate=2e-3, exec_horizon=16, longest=200),
    Proof("pick", "LIVING_ROOM_SCENE1_pick_up_the_alphabet_soup_and_put_it_in_the_basket", sighted=True, goal=0.6,
          limit_minutes=90, demos=48, noise=0.1, model="small", batch=32, steps=1600, learning_rate=1e-3,
          exec_horizon=8, longest=200, eye_steps=1200))}
SHORT = replace(PROOFS["drawer"], demos=6, steps=400, trials=10, longest=100, goal=0.5)


@dataclass(frozen=True)
class Place:
    """Where a proof keeps its files."""

    folder: Path
    proof: Proof

    @property
    def demonstrations(self) -> Path:
        return self.folder / "demonstrations"

    @property
    def assets(self) -> dict[str, str]:
        return {"dataset": str(self.demonstrations), "text_encoder": str(self.folder / "assets" / "t5-tiny"),
                "vision_encoder": str(self.folder / "assets" / ("eyes" if self.proof.sighted else "siglip-tiny"))}

    @property
    def checkpoint(self) -> Path:
        spec = RunSpec.load(next(self.folder.glob("training/runs/*/config.json")))
        return Path(spec.paths.checkpoints) / checkpoint_name(self.proof.steps) / "ema"

    @cached_property
    def task(self) -> Task:
        return simulator.tasks("libero_90", self.proof.task)[0]


def prove(place: Place, processes: int, say: Callable[[str], object], films: Path | None = None) -> Iterator[Row]:
    """What `place` already holds is used again. Raises an error of ours."""
    proof, began, minutes = place.proof, time.monotonic(), None
    if not place.demonstrations.is_dir():
        wish = Recording(place.task, proof.demos, 0, noise=proof.noise, blank_images=not proof.sighted)
        record(place.demonstrations / "recorded_demo.hdf5", wish, processes, say)
    tiny.make(place.folder / "assets")
    if proof.sighted and not Path(place.assets["vision_encoder"]).is_dir():
        torch.set_num_threads(processes)
        off_m = eyes.teach(place.demonstrations, Path(place.assets["vision_encoder"]), proof.eye_steps, SEED)
        say("eyes, mean error on demonstrations that taught nothing: " + ", ".join(
            f"{camera} {100 * off:.1f} cm" for camera, off in off_m.items()))
    if not (place.folder / "training").is_dir():
        minutes = train(run_folder(place.folder / "training", place.assets, _config(proof)), processes) / 60
        say(f"trained {proof.steps} steps in {minutes:.1f} minutes")
    found = {}
    for kind, steps in _trials(place, processes, say):
        found[kind] = steps
        yield _row(proof, kind, steps, found)
    if minutes is not None:  # else nothing was trained, and there is no time to tell
        if proof.sighted:
            minutes = (time.monotonic() - began) / 60
        yield Row(f"{proof.name}, minutes {'in all' if proof.sighted else 'of training'}", round(minutes, 1),
                  f"at most {proof.limit_minutes:.0f}", minutes <= proof.limit_minutes, f"{processes} processes")
    if films:
        _film(place, found[TRAINED], films)


def _row(proof: Proof, kind: str, steps: list[int | None], found: dict[str, list[int | None]]) -> Row:
    """A baseline holds when the trained policy's interval lies above its own. A task that needs no eyes may be done by
    replaying: that row then tells how easy it is."""
    good, trials = sum(s is not None for s in steps), len(steps)
    low, high = wilson(good, trials)
    how = f"{good} of {trials} unseen starts, {low:.2f} to {high:.2f}"
    if done := [s for s in steps if s is not None]:
        how += f"; {np.mean(done):.0f} steps on average"
    if kind == TRAINED:
        return Row(f"{proof.name}, {kind}", good / trials, f"at least {proof.goal}", good / trials >= proof.goal, how)
    if kind == REPLAYED and not proof.sighted:
        return Row(f"{proof.name}, {kind}", good / trials, "none: it tells what the task asks for", True, how)
    above = wilson(sum(s is not None for s in found[TRAINED]), trials)[0]
    goal = f"all of its interval below the trained policy's, which begins at {above:.2f}"
    return Row(f"{proof.name}, {kind}", good / trials, goal, high < above, how)


def _config(proof: Proof) -> TrainConfig:
    settings: dict[str, Any] = {
        **SETTINGS, "model": proof.model, "batch_size_per_process": proof.batch, "max_steps": proof.steps,
        "checkpoint_every_steps": proof.steps, "sample_every_steps": max(1, proof.steps // 10),
        "learning_rate": proof.learning_rate, "log_every_steps": 50}
    return override(preset("tiny"), [f"{key}={value}" for key, value in settings.items()])


# trials --------------------------------------------------------------------------------------------------------------

def _trials(place: Place, processes: int, say: Callable[[str], object]) -> Iterator[tuple[str, list[int | None]]]:
    """Each kind with its steps to success, None for a failure."""
    with multiprocessing.get_context("spawn").Pool(processes, _enter, (place,)) as pool:
        for kind in place.proof.kinds:
            steps: list[int | None] = []
            for number, made in enumerate(pool.imap(partial(_trial, kind), range(place.proof.trials)), 1):
                if isinstance(made, RdtopsError):
                    raise made
                steps.append(made)
                if number % 10 == 0:
                    say(f"{kind}: {sum(s is not None for s in steps)} of {number}")
            yield kind, steps


_arena: Arena | None = None  # a pool's worker process has one


def _enter(place: Place) -> None:
    global _arena  # noqa: PLW0603
    torch.set_num_threads(1)
    _arena = Arena(place)


def _trial(kind: str, trial: int) -> int | RdtopsError | None:
    assert _arena
    try:
        return _arena.trial(kind, trial)
    except RdtopsError as error:
        return error


class Arena:
    """A task's world in light and in darkness, and all that may act in it."""

    def __init__(self, place: Place) -> None:
        self.place, self.proof = place, place.proof
        self.world = self.dark = Simulator(place.task, images=self.proof.sighted)
        if self.proof.sighted:
            self.dark = Simulator(place.task, images=False)
        self.states = place.task.initial_states()
        self.dataset = libero.index(place.demonstrations)

    def trial(self, kind: str, trial: int) -> int | None:
        """Steps to success, None for a failure."""
        if kind == REPLAYED:
            episode = self.dataset.episodes[trial % len(self.dataset.episodes)]
            return self._act(trial, iter(episode.actions_T7))
        if kind == GUESSED:
            return self._act(trial, self._guesses(trial))
        world = self.world if kind == TRAINED else self.dark
        driver = self.driver if kind != UNTRAINED else self.beginner
        return rollout(world, driver, self.states[trial], trial, self.proof.exec_horizon, self.proof.longest)

    @cached_property
    def driver(self) -> Driver:
        return self._driver(RDTPolicy.from_pretrained(self.place.checkpoint))

    @cached_property
    def beginner(self) -> Driver:
        torch.manual_seed(SEED)
        return self._driver(RDTPolicy(ARCHITECTURES[self.proof.model]))

    @cached_property
    def blindfolded(self) -> Driver:
        return self._driver(RDTPolicy.from_pretrained(self.place.checkpoint), Blindfolded)

    def _driver(self, policy: RDTPolicy, kind: type[Driver] = Driver) -> Driver:
        cpu, using = torch.device("cpu"), codec("delta_velocity")
        texts = encoders.encode_instructions(self.place.assets["text_encoder"], [self.dark.instruction],
                                             self.place.folder / "instructions", cpu)
        conditions = Conditions(texts, self.place.assets["vision_encoder"], using.control_hz, cpu, torch.float32)
        return kind(policy.eval(), conditions, using, self.dark.instruction, SEED)

    def _act(self, trial: int, actions: Iterator[np.ndarray]) -> int | None:
        """Without a policy, in the dark."""
        self.dark.begin(self.states[trial], trial)
        self.dark.settle(SETTLING_STEPS)
        for step, action in zip(range(1, self.proof.longest + 1), actions, strict=False):
            if self.dark.step(action):
                return step
        return None

    def _guesses(self, trial: int) -> Iterator[np.ndarray]:
        """The expert's actions towards the middle of where the demonstrations' hands closed."""
        places = [e.position_m_T3[int((e.actions_T7[:, 6] > 0).argmax())] for e in self.dataset.episodes]
        expert = EXPERTS[self.proof.task](np.random.default_rng(trial))
        assert isinstance(expert, PutSoupInBasket)
        expert.guess_m = np.mean(places, axis=0) - expert.GRASP_M
        while True:
            yield expert.act(self.dark)


# what comes of it ----------------------------------------------------------------------------------------------------

def _film(place: Place, steps: list[int | None], folder: Path) -> None:
    """The first success and the first failure, acted once more: the same to the last bit."""
    simulator.load(images=True)
    arena, lit = Arena(place), Simulator(place.task)
    driver = arena.driver if place.proof.sighted else arena.blindfolded
    for outcome, failed in (("success", False), ("failure", True)):
        trial = next((n for n, s in enumerate(steps) if (s is None) == failed), None)
        if trial is None:
            continue
        frames: list[np.ndarray] = []

        def keep(_step: int, _done: bool, frames: list[np.ndarray] = frames) -> None:
            frames.append(lit.images())

        again = rollout(lit, driver, arena.states[trial], trial, place.proof.exec_horizon, place.proof.longest, keep)
        assert again == steps[trial], (trial, steps[trial], again)
        film.write(folder / f"{place.proof.name}_{outcome}.mp4", frames, arena.dark.instruction, outcome,
                   place.proof.longest)


class Blindfolded(Driver):
    """Acts in the light as if it were dark."""

    def decide(self, robot: RobotState, frames_VCSS3: np.ndarray, trial: int, decision: int) -> np.ndarray:
        return super().decide(robot, np.zeros_like(frames_VCSS3), trial, decision)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    proofs = [SHORT] if options.quick else [p for p in PROOFS.values() if options.only in p.name]
    try:
        for proof in proofs:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(options.keep or scratch) / proof.name
                trials = min(proof.trials, options.trials or proof.trials)
                for row in prove(Place(folder, replace(proof, trials=trials)), options.processes, _say, options.films):
                    sys.stdout.write(json.dumps(asdict(row)) + "\n")
                    sys.stdout.flush()
    except RdtopsError as error:
        return failures.complain(error)
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.proof",
                                     description="Prove in LIBERO's simulator that what is trained here drives.")
    parser.add_argument("--only", default="", help=f"one of {', '.join(PROOFS)}")
    parser.add_argument("--quick", action="store_true", help="the drawer with few of everything: minutes")
    parser.add_argument("--trials", type=int, default=0, help="starts to evaluate; default: all 50")
    parser.add_argument("--keep", help="a folder to keep everything in; what it holds is not made anew")
    parser.add_argument("--films", type=Path, help="a folder for films of a success and a failure")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
