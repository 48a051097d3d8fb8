"""Recording of demonstrations in LIBERO's schema, made in LIBERO's simulator by a scripted expert:

    python -m proofs.closed_loop.recording datasets/drawer/KITCHEN_SCENE10_demo.hdf5 --demos 50 --processes 8

They are recorded in the world that evaluation uses, from the step at which evaluation starts the policy: a
demonstration starts with the last two of the settling steps, so that its first decision has two frames. Observation
and simulation are of the same moment, and the actions, replayed from `init_state` with the episode's `seed`, give the
recorded states again, bit for bit.

LIBERO's own files were recorded in a world rebuilt from `model_file`, in which objects have other masses than in the
world that evaluation uses (see Simulator.model_xml). Our `model_file` states the masses, so that both worlds are equal.
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
RESTING_STEPS = 3  # of a hand that starts at another place
DRAWN = -1  # instead of the number of an initial state


@dataclass(frozen=True)
class Recording:
    """The settings of a recording. Demonstration k starts from initial state k modulo `initial_states`, or, if that is
    0, from one drawn from its seed, which leaves all of the benchmark's for evaluation."""

    task: Task
    demos: int = 50
    initial_states: int = 50
    seed: int = 0
    noise: float = 0.1
    jitter: float = 1.0
    image_size: int = 128
    blank_images: bool = False  # black images, which need neither time nor disk
    elsewhere: float = 0.0  # share of the demonstrations in which the hand starts at another place, drawn by the expert


@dataclass(frozen=True)
class Demonstration:
    """A demonstration of T steps. Arrays are named as in the file; `attributes` are the file's too."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]
    about: dict[str, Any]  # attributes shared by all demonstrations of a file
    steps_to_success: int


def record(out: Path, request: Recording, processes: int = 1, say: Callable[[str], object] | None = None) -> None:
    """Write `out` atomically. Raise SimulatorError when the expert fails repeatedly."""
    out.parent.mkdir(parents=True, exist_ok=True)
    say = say or (lambda _: None)
    began, total = time.monotonic(), 0
    with files.replacing(out) as part, h5py.File(part, "w") as file:
        data = file.create_group("data")
        for number, demo in enumerate(demonstrations(request, processes)):
            _write_demo(data.create_group(f"demo_{number}"), demo, request)
            data.attrs.update(demo.about)
            total += len(demo.arrays["actions"])
            say(f"demo_{number}: from {_start(demo)}, success after {demo.steps_to_success} steps")
        data.attrs.update(num_demos=request.demos, total=total)
    say(f"{out}: {request.demos} demonstrations, {total} steps, in {time.monotonic() - began:.0f} s")


def demonstrations(request: Recording, processes: int = 1) -> Iterator[Demonstration]:
    """Yield the demonstrations in order, each from its own seed: they do not depend on the number of processes."""
    yield from shared_out(partial(Recorder, request), Recorder.demonstration, range(request.demos), processes)


class Recorder:
    def __init__(self, request: Recording) -> None:
        self.request = request
        self.world = Simulator(request.task, request.image_size, images=not request.blank_images)
        self.states = request.task.initial_states()

    def demonstration(self, number: int) -> Demonstration:
        """Return the first attempt that succeeds: action noise may spoil one."""
        for attempt in range(ATTEMPTS):
            made = self._attempt(number, (self.request.seed, number, attempt))
            if made:
                return made
        raise SimulatorError(f"the expert failed {ATTEMPTS} times at demonstration {number}", remedy="less --noise")

    def _attempt(self, number: int, key: tuple[int, int, int]) -> Demonstration | None:
        random = np.random.default_rng(key)
        seed = int(random.integers(2**31))
        expert = EXPERTS[self.request.task.name](random, self.request.noise, self.request.jitter)
        initial_state = number % self.request.initial_states if self.request.initial_states else DRAWN
        self.world.begin(self.world.drawn(seed) if initial_state == DRAWN else self.states[initial_state], seed)
        self.world.settle(SETTLING_STEPS - IDLE_KEPT)
        if self.request.elsewhere and random.random() < self.request.elsewhere:
            assert isinstance(expert, PutPuddingInTray), "the only one that says where else"
            self._go(expert.elsewhere_m(self.world))
        settled, xml = self.world.state, self.world.model_xml()
        self.world.begin(settled, seed, settled=True)  # again, so that a replay from here is the same
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
        """Move the hand across and then down, before the demonstration begins, so that this motion is not learnt."""
        over_m = np.array([*there_m[:2], max(there_m[2], self.world.robot().position_m_3[2])])
        for target_m in (over_m, there_m):
            for _ in go(self.world, target_m):
                pass
        self.world.settle(RESTING_STEPS)

    def _about(self) -> dict[str, Any]:
        """Return the attributes of LIBERO's own files, and the settings of this recording."""
        world, task = self.world, self.request.task
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
                                       "seed": self.request.seed, "noise": self.request.noise,
                                       "jitter": self.request.jitter,
                                       "blank_images": self.request.blank_images, "elsewhere": self.request.elsewhere}),
        }

    def _observed(self) -> dict[str, np.ndarray]:
        """Observe after the action, as in LIBERO's files; images as the renderer gives them, upside down."""
        robot = self.world.robot()
        seen = {"obs/joint_states": robot.joint_rad_7, "obs/gripper_states": robot.finger_m_2,
                "obs/ee_pos": robot.position_m_3, "obs/ee_ori": robot.axis_angle_rad_3,
                "obs/ee_states": np.concatenate([robot.position_m_3, robot.axis_angle_rad_3]),
                "robot_states": np.concatenate([robot.finger_m_2, robot.position_m_3, robot.quaternion_xyzw_4])}
        images = {} if self.request.blank_images else dict(
            zip(libero.CAMERAS, self.world.images()[:, ::-1], strict=True))
        return {**seen, **{f"obs/{camera}": image for camera, image in images.items()}}


def _start(demo: Demonstration) -> str:
    number = demo.attributes["initial_state"]
    return "a drawn state" if number == DRAWN else f"initial state {number}"


def _write_demo(group: h5py.Group, demo: Demonstration, request: Recording) -> None:
    length = len(demo.arrays["actions"])
    for name, values in demo.arrays.items():
        group[name] = values
    if request.blank_images:  # unwritten chunks take no space and are read as zeros
        for camera in libero.CAMERAS:
            shape = (length, request.image_size, request.image_size, 3)
            group.create_dataset(f"obs/{camera}", data=np.zeros(shape, np.uint8), chunks=(1, *shape[1:]),
                                 compression="gzip")  # small; chunks that were never written are refused
    for name in ("rewards", "dones"):
        group[name] = (np.arange(length) == length - 1).astype(np.uint8)
    for name, value in {**demo.attributes, "num_samples": length}.items():
        group.attrs[name] = value


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        task = _task_with_expert(options.benchmark, options.task)
        request = Recording(task, options.demos, options.initial_states, options.seed, options.noise, options.jitter,
                         options.image_size, options.blank_images)
        record(Path(options.out), request, options.processes, say=lambda text: sys.stdout.write(f"{text}\n"))
    except RdtopsError as error:
        return failures.complain(error)
    return 0


def _task_with_expert(suite: str, name: str) -> Task:
    task = simulator.tasks(suite, name)[0]
    if task.name not in EXPERTS:
        raise UsageError(f"{task.name} has no scripted expert; tasks with one: {', '.join(EXPERTS)}")
    return task


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proofs.closed_loop.recording",
                                     description="Record demonstrations of a scripted expert in LIBERO's simulator.")
    parser.add_argument("out", help="the .hdf5 file to write")
    parser.add_argument("--benchmark", default="libero_90")
    parser.add_argument("--task", default=next(iter(EXPERTS)), help="a task's name or a part of it")
    parser.add_argument("--demos", type=_positive, default=50)
    parser.add_argument("--initial-states", type=int, default=50, choices=range(51), metavar="0-50",
                        help="use the first so many in turn, and keep the others for evaluation; 0: draw new ones")
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
