"""Closed-loop benchmark: from demonstrations to the success rate of a policy in LIBERO's simulator:

    inv bench closed-loop          # or: python -m proofs.closed_loop.benchmark

Records demonstrations, trains a small RDT on them with the bundled trainer, and evaluates the EMA weights from all of
the benchmark's initial states, which no demonstration used: those start from states newly drawn by LIBERO. (In the
pick task the object is in a wider region than the benchmark's: both kinds of states are drawn, with separate seeds.
Its policy uses a keypoint encoder trained on rendered samples.) The baselines are an untrained policy, a
demonstration's actions replayed in open loop, the same policy with blank images, and, for a task that needs images,
the scripted expert without the position of the object.

Trial i of each has the same start, world and noise. Rows as `inv bench` prints them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proofs.closed_loop import keypoint_training
from proofs.closed_loop.baselines import Baselines
from proofs.closed_loop.benchmark_config import PROOFS, REPLAYED, SEED, SETTINGS, SHORT, TRAINED, Place, Proof
from proofs.closed_loop.loss_comparison import run_folder, train
from proofs.closed_loop.pool import shared_out
from proofs.closed_loop.recording import Recording, record
from proofs.closed_loop.rendered_samples import RenderedSamples, Rendering, taken
from proofs.trainer_bench.speed import SpeedRow
from rdtops.contract.config import TrainConfig, override, preset
from rdtops.errors import RdtopsError
from rdtops.trainer import tiny
from rdtops.trainer.loop import failures
from rdtops.trainer.simulation import film, simulator
from rdtops.trainer.simulation.rollout import rollout, wilson
from rdtops.trainer.simulation.simulator import Simulator


def prove(place: Place, processes: int, say: Callable[[str], object], films: Path | None = None) -> Iterator[SpeedRow]:
    """Run one proof. Files in `place` are reused. Raise an RdtopsError."""
    proof, began, minutes = place.proof, time.monotonic(), None
    if not place.demonstrations.is_dir():
        request = Recording(place.task, proof.demos, 0, noise=proof.noise, blank_images=not proof.sighted,
                         elsewhere=proof.elsewhere)
        record(place.demonstrations / "recorded_demo.hdf5", request, processes, say)
    tiny.make(place.folder / "assets")
    if proof.sighted and not Path(place.assets["vision_encoder"]).is_dir():
        _train_encoder(place, processes, say)
    if not (place.folder / "training").is_dir():
        minutes = train(run_folder(place.folder / "training", place.assets, _config(proof)), processes) / 60
        say(f"trained {proof.steps} steps in {minutes:.1f} minutes")
    found = {}
    for kind, steps in _trials(place, processes, say):
        found[kind] = steps
        yield _row(proof, kind, steps, found)
    if minutes is not None:  # None: nothing was trained, so there is no time to report
        if proof.sighted:
            minutes = (time.monotonic() - began) / 60
        yield SpeedRow(f"{proof.name}, minutes {'in total' if proof.sighted else 'of training'}", round(minutes, 1),
                       f"at most {proof.limit_minutes:.0f}", minutes <= proof.limit_minutes, f"{processes} processes")
    if films:
        _film(place, found[TRAINED], films)


def _train_encoder(place: Place, processes: int, say: Callable[[str], object]) -> None:
    proof = place.proof
    if not place.rendered_samples.is_file():
        request = Rendering(place.task, proof.sought, proof.corners_m, proof.rendered_samples, SEED)
        taken(request, processes, say).save(place.rendered_samples)
    torch.set_num_threads(processes)
    samples, encoder = RenderedSamples.load(place.rendered_samples), Path(place.assets["vision_encoder"])
    off_m = keypoint_training.teach(samples, encoder, proof.encoder_steps, SEED)
    say("keypoint encoder, mean error in held-out scenes: " + ", ".join(
        f"{camera} {100 * off:.1f} cm" for camera, off in off_m.items()))


def _row(proof: Proof, kind: str, steps: list[int | None], found: dict[str, list[int | None]]) -> SpeedRow:
    """Judge a row: a baseline passes when the trained policy's interval is above its own. A task without images may
    be solved by replaying: that row then shows how easy it is."""
    good, trials = sum(s is not None for s in steps), len(steps)
    low, high = wilson(good, trials)
    how = f"{good} of {trials} unseen starts, {low:.2f} to {high:.2f}"
    if done := [s for s in steps if s is not None]:
        how += f"; {np.mean(done):.0f} steps on average"
    if kind == TRAINED:
        return SpeedRow(f"{proof.name}, {kind}", good / trials, f"at least {proof.goal}", good / trials >= proof.goal,
                        how)
    if kind == REPLAYED and not proof.sighted:
        return SpeedRow(f"{proof.name}, {kind}", good / trials, "none: it shows how hard the task is", True, how)
    above = wilson(sum(s is not None for s in found[TRAINED]), trials)[0]
    goal = f"all of its interval below the trained policy's, which begins at {above:.2f}"
    return SpeedRow(f"{proof.name}, {kind}", good / trials, goal, high < above, how)


def _config(proof: Proof) -> TrainConfig:
    settings: dict[str, Any] = {
        **SETTINGS, "model": proof.model, "batch_size_per_process": proof.batch, "max_steps": proof.steps,
        "checkpoint_every_steps": proof.steps, "sample_every_steps": max(1, proof.steps // 10),
        "learning_rate": proof.learning_rate, "log_every_steps": 50, "codec": proof.codec, "loss": proof.loss,
        "noise_draws_per_sample": proof.noise_draws}
    return override(preset("tiny"), [f"{key}={value}" for key, value in settings.items()])


# trials --------------------------------------------------------------------------------------------------------------

def _trials(place: Place, processes: int, say: Callable[[str], object]) -> Iterator[tuple[str, list[int | None]]]:
    """Run the trials. Return for each kind its steps to success, None for a failure."""
    jobs = [(kind, trial) for kind in place.proof.kinds for trial in range(place.proof.trials)]
    acted = shared_out(partial(_baselines, place), _trial, jobs, processes)
    for kind in place.proof.kinds:
        steps: list[int | None] = []
        for made in itertools.islice(acted, place.proof.trials):
            steps.append(made)
            if len(steps) % 10 == 0:
                say(f"{kind}: {sum(s is not None for s in steps)} of {len(steps)}")
        yield kind, steps


def _baselines(place: Place) -> Baselines:
    torch.set_num_threads(1)
    return Baselines(place)


def _trial(baselines: Baselines, job: tuple[str, int]) -> int | None:
    return baselines.trial(*job)


# videos ----------------------------------------------------------------------------------------------------

def _film(place: Place, steps: list[int | None], folder: Path) -> None:
    """Write videos of the first success and the first failure, run again: the same to the last bit."""
    simulator.load(images=True)
    with contextlib.closing(Baselines(place)) as baselines, contextlib.closing(Simulator(place.task)) as lit:
        _film_with(baselines, lit, steps, folder)


def _film_with(baselines: Baselines, lit: Simulator, steps: list[int | None], folder: Path) -> None:
    place = baselines.place
    driver = baselines.driver if place.proof.sighted else baselines.blank_images_driver
    for outcome, failed in (("success", False), ("failure", True)):
        trial = next((n for n, s in enumerate(steps) if (s is None) == failed), None)
        if trial is None:
            continue
        frames: list[np.ndarray] = []

        def keep(_step: int, _done: bool, frames: list[np.ndarray] = frames) -> None:
            frames.append(lit.images())

        again = rollout(lit, driver, baselines.start(trial), trial, place.proof.exec_horizon, place.proof.longest, keep)
        assert again == steps[trial], (trial, steps[trial], again)
        film.write(folder / f"{place.proof.name}_{outcome}.mp4", frames, baselines.blank_world.instruction, outcome,
                   place.proof.longest)


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
    parser = argparse.ArgumentParser(prog="python -m proofs.closed_loop.benchmark",
                                     description="Prove in LIBERO's simulator that trained policies solve tasks.")
    parser.add_argument("--only", default="", help=f"one of {', '.join(PROOFS)}")
    parser.add_argument("--quick", action="store_true", help="the drawer with few of everything: minutes")
    parser.add_argument("--trials", type=int, default=0, help="starts to evaluate; default: all 50")
    parser.add_argument("--keep", help="a folder to keep everything in; what it holds is not made anew")
    parser.add_argument("--films", type=Path, help="a folder for films of a success and a failure")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
