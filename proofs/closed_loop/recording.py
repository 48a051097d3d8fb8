"""Demonstrations in LIBERO's own schema, made in LIBERO's simulator by a scripted expert:

    python -m proofs.closed_loop.recording datasets/drawer/KITCHEN_SCENE10_demo.hdf5 --demos 50 --processes 8

They are driven in the world that evaluation uses, from the moment on at which evaluation hands over to the policy: a
demonstration starts with the last two of the settling steps, so that its first decision has its two frames. What is
observed and what is simulated are one and the same, and the actions, replayed from `init_state` with the episode's
`seed`, give the recorded states again, bit for bit.

LIBERO's own files were driven in a world rebuilt from `model_file`, in which objects have other masses than in the one
that evaluation uses (see Simulator.model_xml). Ours says which masses, so that both worlds are one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from proofs.closed_loop.pool import shared_out
from proofs.closed_loop.scripted_experts import EXPERTS, PutPuddingInTray, go
from rdtops.errors import RdtopsError, SimulatorError, UsageError
from rdtops.hostlib import files
from rdtops.trainer.data import libero
from rdtops.trainer.loop import failures
from rdtops.trainer.simulation import simulator
from rdtops.trainer.simulation.simulator import SETTLING_STEPS, Simulator, Task

IDLE_KEPT = 2  # of the settling steps
HELD = 10  # steps after success, as in LIBERO's files
LONGEST = 200  # steps until success; the expert takes about 40
ATTEMPTS = 10
RESTING_STEPS = 3  # of a hand that starts elsewhere
DRAWN = -1  # in place of an initial state's number


@dataclass(frozen=True)
class Recording:
    """How to record. Demonstration k starts from initial state k modulo `initial_states`, or with 0 of them from one
    that is drawn from its seed, which leaves all of the benchmark's for evaluation."""

    task: Task
    demos: int = 50
    initial_states: int = 50
    seed: int = 0
    noise: float = 0.1
    jitter: float = 1.0
    image_size: int = 128
    blank_images: bool = False  # black ones, which cost neither time nor disk
    elsewhere: float = 0.0  # share of the demonstrations in which the hand starts where the expert says it could


@dataclass(frozen=True)
class Demonstration:
    """T steps. Arrays named as in the file; `attributes` are the file's too."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]
    about: dict[str, Any]  # attributes that all demonstrations of a file share
    steps_to_success: int


def record(out: Path, wish: Recording, processes: int = 1, say: Callable[[str], object] | None = None) -> None:
    """Write `out`, which appears whole or not at all. Raises SimulatorError when the expert keeps failing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    say = say or (lambda _: None)
    began, total = time.monotonic(), 0
    with files.replacing(out) as part, h5py.File(part, "w") as file:
        data = file.create_group("data")
        for number, demo in enumerate(demonstrations(wish, processes)):
            _write_demo(data.create_group(f"demo_{number}"), demo, wish)
            data.attrs.update(demo.about)
            total += len(demo.arrays["actions"])
            say(f"demo_{number}: from {_start(demo)}, success after {demo.steps_to_success} steps")
        data.attrs.update(num_demos=wish.demos, total=total)
    say(f"{out}: {wish.demos} demonstrations, {total} steps, in {time.monotonic() - began:.0f} s")


def demonstrations(wish: Recording, processes: int = 1) -> Iterator[Demonstration]:
    """In their order, each from its own seed: how many processes share the work is no part of what they are."""
    yield from shared_out(partial(Recorder, wish), Recorder.demonstration, range(wish.demos), processes)


class Recorder:
    def __init__(self, wish: Recording) -> None:
        self.wish = wish
        self.world = Simulator(wish.task, wish.image_size, images=not wish.blank_images)
        self.states = wish.task.initial_states()

    def demonstration(self, number: int) -> Demonstration:
        """Return the first attempt that succeeds: action noise may spoil one."""
        for attempt in range(ATTEMPTS):
            made = self._attempt(number, (self.wish.seed, number, attempt))
            if made:
                return made
        raise SimulatorError(f"the expert failed {ATTEMPTS} times at demonstration {number}", remedy="less --noise")

    def _attempt(self, number: int, key: tuple[int, int, int]) -> Demonstration | None:
        random = np.random.default_rng(key)
        seed = int(random.integers(2**31))
        expert = EXPERTS[self.wish.task.name](random, self.wish.noise, self.wish.jitter)
        initial_state = number % self.wish.initial_states if self.wish.initial_states else DRAWN
        self.world.begin(self.world.drawn(seed) if initial_state == DRAWN else self.states[initial_state], seed)
        self.world.settle(SETTLING_STEPS - IDLE_KEPT)
        if self.wish.elsewhere and random.random() < self.wish.elsewhere:
            assert isinstance(expert, PutPuddingInTray), "the only one that says where else"
            self._go(expert.elsewhere_m(self.world))
        settled, xml = self.world.state, self.world.model_xml()
        self.world.begin(settled, seed, settled=True)  # once more, so that a replay from here is the same
        rows: list[dict[str, np.ndarray]] = []
        success = None
        while success is None or len(rows) < success + HELD:
            action = simulator.IDLE if len(rows) < IDLE_KEPT else expert.act(self.world)
            before = self.world.state
            done = self.world.step(action)
            rows.append({"actions": action, "states": before, **self._observed()})
            if done and success is None:
                success = len(rows)
            if success is None and len(rows) >= LONGEST:
                return None
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        attributes = {"init_state": settled, "model_file": xml, "seed": seed, "initial_state": initial_state}
        return Demonstration(arrays, attributes, self._about(), success - IDLE_KEPT)

    def _go(self, there_m: np.ndarray) -> None:
        """Across and then down, before the demonstration begins, so that nobody learns the way there."""
        over_m = np.array([*there_m[:2], max(there_m[2], self.world.robot().position_m_3[2])])
        for target_m in (over_m, there_m):
            for _ in go(self.world, target_m):
                pass
        self.world.settle(RESTING_STEPS)

    def _about(self) -> dict[str, Any]:
        """As LIBERO's own files have it, and how these demonstrations came about."""
        world, task = self.world, self.wish.task
        bddl_file = f"libero/libero/bddl_files/{task.suite}/{Path(task.bddl_file).name}"
        arguments = {**world.environment_arguments(), "bddl_file_name": bddl_file}
        return {
            "env_name": world.environment_name, "bddl_file_name": bddl_file, "tag": "libero-v1",
            "macros_image_convention": "opengl",
            "problem_info": json.dumps({"problem_name": world.problem_name, "domain_name": "robosuite",
                                        "language_instruction": world.instruction}),
            "env_args": json.dumps({"type": 1, "env_name": world.environment_name, "problem_name": world.problem_name,
                                    "bddl_file": bddl_file, "env_kwargs": arguments}),
            "recorded_by": json.dumps({"program": "proofs.closed_loop.recording", "task": task.name,
                                       "seed": self.wish.seed, "noise": self.wish.noise, "jitter": self.wish.jitter,
                                       "blank_images": self.wish.blank_images, "elsewhere": self.wish.elsewhere}),
        }

    def _observed(self) -> dict[str, np.ndarray]:
        """After the action, as LIBERO's files have it; images as the renderer gives them, upside down."""
        robot = self.world.robot()
        seen = {"obs/joint_states": robot.joint_rad_7, "obs/gripper_states": robot.finger_m_2,
                "obs/ee_pos": robot.position_m_3, "obs/ee_ori": robot.axis_angle_rad_3,
                "obs/ee_states": np.concatenate([robot.position_m_3, robot.axis_angle_rad_3]),
                "robot_states": np.concatenate([robot.finger_m_2, robot.position_m_3, robot.quaternion_xyzw_4])}
        images = {} if self.wish.blank_images else dict(
            zip(libero.CAMERAS, self.world.images()[:, ::-1], strict=True))
        return {**seen, **{f"obs/{camera}": image for camera, image in images.items()}}


def _start(demo: Demonstration) -> str:
    number = demo.attributes["initial_state"]
    return "a drawn state" if number == DRAWN else f"initial state {number}"


def _write_demo(group: h5py.Group, demo: Demonstration, wish: Recording) -> None:
    length = len(demo.arrays["actions"])
    for name, values in demo.arrays.items():
        group[name] = values
    if wish.blank_images:  # chunks that nobody writes take no room and are read as zeros
        for camera in libero.CAMERAS:
            shape = (length, wish.image_size, wish.image_size, 3)
            group.create_dataset(f"obs/{camera}", shape, np.uint8, chunks=(1, *shape[1:]))
    for name in ("rewards", "dones"):
        group[name] = (np.arange(length) == length - 1).astype(np.uint8)
    for name, value in {**demo.attributes, "num_samples": length}.items():
        group.attrs[name] = value


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        task = _task_with_expert(options.benchmark, options.task)
        wish = Recording(task, options.demos, options.initial_states, options.seed, options.noise, options.jitter,
                         options.image_size, options.blank_images)
        record(Path(options.out), wish, options.processes, say=lambda text: sys.stdout.write(f"{text}\n"))
    except RdtopsError as error:
        return failures.complain(error)
    return 0


def _task_with_expert(suite: str, name: str) -> Task:
    task = simulator.tasks(suite, name)[0]
    if task.name not in EXPERTS:
        raise UsageError(f"nobody shows how to do {task.name}; tasks with an expert: {', '.join(EXPERTS)}")
    return task


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proofs.closed_loop.recording",
                                     description="Record demonstrations of a scripted expert in LIBERO's simulator.")
    parser.add_argument("out", help="the .hdf5 file to write")
    parser.add_argument("--benchmark", default="libero_90")
    parser.add_argument("--task", default=next(iter(EXPERTS)), help="a task's name or a part of it")
    parser.add_argument("--demos", type=_positive, default=50)
    parser.add_argument("--initial-states", type=int, default=50, choices=range(51), metavar="0-50",
                        help="use the first so many in turn, and keep the others for evaluation; 0: draw other ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.1, help="of the motion, in action units (1 = 0.05 m a step)")
    parser.add_argument("--jitter", type=float, default=1.0, help="of the way the expert takes; 0: always the same")
    parser.add_argument("--image-size", type=int, default=128, choices=libero.IMAGE_SIZES)
    parser.add_argument("--blank-images", action="store_true", help="black ones: ten times as fast, nothing to render")
    parser.add_argument("--processes", type=_positive, default=os.cpu_count() or 1)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
