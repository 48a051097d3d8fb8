"""Baselines: the trained policy and what it is compared with, from the same initial states."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from proofs.closed_loop import keypoint_encoder  # noqa: F401  # registers itself
from proofs.closed_loop.benchmark_config import GUESSED, REPLAYED, SEED, TRAINED, UNTRAINED, Place
from proofs.closed_loop.scripted_experts import EXPERTS, PutPuddingInTray
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.model import encoders
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy
from rdtops.trainer.simulation.rollout import Driver, rollout
from rdtops.trainer.simulation.simulator import SETTLING_STEPS, RobotState, Simulator

FIRST_SEED = 2**31  # seeds of the trials' initial states; those of demonstrations are below it

class Baselines:
    """A task's world with and without images, and the policies that act in it."""

    def __init__(self, place: Place) -> None:
        self.place, self.proof = place, place.proof
        self.world = self.blank_world = Simulator(place.task, images=self.proof.sighted)
        if self.proof.sighted:
            self.blank_world = Simulator(place.task, images=False)
        self.dataset = libero.index(place.demonstrations)

    def close(self) -> None:
        for world in {self.world, self.blank_world}:
            world.close()

    def start(self, trial: int) -> np.ndarray:
        """Return the benchmark's initial state of that number; in a changed region, where it has none, a drawn one."""
        if self.proof.region:
            return self.blank_world.drawn(FIRST_SEED + trial)
        return self.place.task.initial_states()[trial]

    def trial(self, kind: str, trial: int) -> int | None:
        """Run a trial. Return the steps to success, None for a failure."""
        if kind == REPLAYED:
            episode = self.dataset.episodes[trial % len(self.dataset.episodes)]
            return self._act(trial, iter(episode.actions_T7))
        if kind == GUESSED:
            return self._act(trial, self._guesses(trial))
        world = self.world if kind == TRAINED else self.blank_world
        driver = self.driver if kind != UNTRAINED else self.beginner
        return rollout(world, driver, self.start(trial), trial, self.proof.exec_horizon, self.proof.longest)

    @cached_property
    def driver(self) -> Driver:
        return self._driver(RDTPolicy.from_pretrained(self.place.checkpoint))

    @cached_property
    def beginner(self) -> Driver:
        torch.manual_seed(SEED)
        return self._driver(RDTPolicy(ARCHITECTURES[self.proof.model]))

    @cached_property
    def blank_images_driver(self) -> Driver:
        return self._driver(RDTPolicy.from_pretrained(self.place.checkpoint), BlankImages)

    def _driver(self, policy: RDTPolicy, kind: type[Driver] = Driver) -> Driver:
        cpu, using = torch.device("cpu"), codec(self.proof.codec)
        texts = encoders.encode_instructions(self.place.assets["text_encoder"], [self.blank_world.instruction],
                                             self.place.folder / "instructions", cpu)
        conditions = Conditions(texts, self.place.assets["vision_encoder"], using.control_hz, cpu, torch.float32)
        return kind(policy.eval(), conditions, using, self.blank_world.instruction, SEED)

    def _act(self, trial: int, actions: Iterator[np.ndarray]) -> int | None:
        """Run a trial of given actions, without a policy and without images."""
        self.blank_world.begin(self.start(trial), trial)
        self.blank_world.settle(SETTLING_STEPS)
        for step, action in zip(range(1, self.proof.longest + 1), actions, strict=False):
            if self.blank_world.step(action):
                return step
        return None

    def _guesses(self, trial: int) -> Iterator[np.ndarray]:
        """Yield the expert's actions towards the mean place at which the demonstrations' hands closed."""
        places = [e.position_m_T3[int((e.actions_T7[:, 6] > 0).argmax())] for e in self.dataset.episodes]
        expert = EXPERTS[self.proof.task](np.random.default_rng(trial))
        assert isinstance(expert, PutPuddingInTray)
        expert.guess_m = np.mean(places, axis=0) - expert.GRASP_M
        while True:
            yield expert.act(self.blank_world)


class BlankImages(Driver):
    """The blank-image ablation: the policy gets black images in a world with images."""

    def decide(self, robot: RobotState, frames_VCSS3: np.ndarray, trial: int, decision: int) -> np.ndarray:
        return super().decide(robot, np.zeros_like(frames_VCSS3), trial, decision)
