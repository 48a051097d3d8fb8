"""Demonstrations in the manner of people with a 3D mouse, in LIBERO's simulator: saturated bursts along some axes,
pauses, a gripper that toggles, small corrections. They do no task: what they test is that nothing about them raises an
alarm.

`python -m tests.trainer.conventions.teleoperation OUT.hdf5 --episodes 30 --steps 80` wrote fixtures/teleoperated.hdf5:
three of each style, without images, numbers rounded to 1e-5 (rad, m), of `states` the first 20 numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from rdtops.trainer.data import libero
from rdtops.trainer.simulation import simulator
from rdtops.trainer.simulation.simulator import Simulator
from tests.trainer.worlds import DRAWER

STEPS = 120
STATES_KEPT = 20
HOME_GAIN = 4.0  # units per metre: people, too, bring the arm back before it is stretched


def hand(random: np.random.Generator, *, speed: float = 1.0, idle: float = 0.3, moves: float = 1.0, turns: float = 0.3,
         gripper: str = "toggles", down: float = 0.0) -> Iterator[np.ndarray]:
    """Actions (7,), burst by burst. `idle`: the share of bursts that are pauses; `moves`, `turns`: how often a burst
    has an axis of position, of rotation; `down`: as often it pushes down, into whatever is there."""
    closed = 1.0 if gripper == "closed" else -1.0
    while True:
        motion = np.zeros(6)
        if random.random() > idle:
            axes = np.concatenate([random.random(3) < 0.5 * moves, random.random(3) < 0.5 * turns])
            motion[axes] = random.choice([-1, 1], axes.sum()) * np.where(
                random.random(axes.sum()) < 0.6, 1, random.random(axes.sum()))
            motion[3:] *= 0.3  # a cap is twisted less than it is pushed
            if random.random() < down:
                motion[2] = -1
        elif gripper == "toggles" and random.random() < 0.5:
            closed = -closed
        for _ in range(random.integers(3, 16)):
            yield np.append(np.clip(speed * motion * random.uniform(0.9, 1.1, 6), -1, 1), closed)


STYLES: dict[str, dict] = {
    "bursts": {}, "hasty": {"idle": 0.05}, "pausing": {"idle": 0.85}, "slow": {"speed": 0.1},
    "very slow": {"speed": 0.03}, "turns only": {"moves": 0.0, "turns": 1.0}, "moves only": {"turns": 0.0},
    "always open": {"gripper": "open"}, "always closed": {"gripper": "closed"}, "pushing down": {"down": 0.8},
}


def drive(world: Simulator, state: np.ndarray, seed: int, actions: Iterator[np.ndarray], steps: int = STEPS,
          see: bool = False) -> dict[str, np.ndarray]:
    """LIBERO's arrays, obs after the action."""
    world.begin(state, seed)
    world.settle()
    home, rows = world.robot().position_m_3, []
    while len(rows) < steps:
        action = next(actions)
        if action[:3].any():
            action[:3] = np.clip(
                action[:3] + HOME_GAIN * (home - world.robot().position_m_3) * np.abs(action[:3]), -1, 1)
        before = world.state
        world.step(action)
        robot = world.robot()
        images = dict(zip((f"obs/{c}" for c in libero.CAMERAS), world.images()[:, ::-1], strict=True)) if see else {}
        rows.append({"actions": action, "states": before, "obs/joint_states": robot.joint_rad_7,
                     "obs/gripper_states": robot.finger_m_2, "obs/ee_pos": robot.position_m_3,
                     "obs/ee_ori": robot.axis_angle_rad_3, **images})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def write(out: Path, task: simulator.Task, episodes: int, *, seed: int = 0, see: bool = False, steps: int = STEPS,
          chosen: str = "", say: Callable[[str], object] = lambda _: None) -> None:
    """The styles in turn, or the chosen one."""
    world, starts = Simulator(task, images=see), task.initial_states()
    kinds = [chosen] if chosen else list(STYLES)
    with h5py.File(out, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": task.language})
        data.attrs["num_demos"] = episodes
        for number in range(episodes):
            kind = kinds[number % len(kinds)]
            random = np.random.default_rng((seed, number))
            arrays = drive(world, starts[number % len(starts)], seed + number, hand(random, **STYLES[kind]), steps, see)
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update({"kind": kind, "num_samples": steps})
            for name, values in arrays.items():
                kept = values[:, :STATES_KEPT] if name == "states" else values
                if values.dtype == np.uint8:
                    demo[name] = kept
                else:
                    demo.create_dataset(name, data=kept.round(5).astype(np.float32), compression="gzip", shuffle=True)
            if not see:
                for camera in libero.CAMERAS:
                    demo.create_dataset(f"obs/{camera}", (steps, 128, 128, 3), np.uint8, chunks=(1, 128, 128, 3))
            say(f"demo_{number}: {kind}")
    world.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--suite", default="libero_90")
    parser.add_argument("--task", default=DRAWER)
    parser.add_argument("--style", default="", choices=("", *STYLES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", action="store_true")
    options = parser.parse_args()
    write(options.out, simulator.tasks(options.suite, options.task)[0], options.episodes, seed=options.seed,
          see=options.images, steps=options.steps, chosen=options.style, say=print)
