"""Who acts in the benchmark, from the same starts: the trained policy, and the baselines."""

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

FIRST_SEED = 2**31  # of the starts of trials; those of demonstrations are below it

class Baselines:
    """A task's world in light and in darkness, and all that may act in it."""

    def __init__(self, place: Place) -> None:
        self.place, self.proof = place, place.proof
        self.world = self.dark = Simulator(place.task, images=self.proof.sighted)
        if self.proof.sighted:
            self.dark = Simulator(place.task, images=False)
        self.dataset = libero.index(place.demonstrations)

    def close(self) -> None:
        for world in {self.world, self.dark}:
            world.close()

    def start(self, trial: int) -> np.ndarray:
        """Return the benchmark's initial state of that number; in a region of ours, where it has none, one that is
        drawn."""
        if self.proof.region:
            return self.dark.drawn(FIRST_SEED + trial)
        return self.place.task.initial_states()[trial]

    def trial(self, kind: str, trial: int) -> int | None:
        """Steps to success, None for a failure."""
        if kind == REPLAYED:
            episode = self.dataset.episodes[trial % len(self.dataset.episodes)]
            return self._act(trial, iter(episode.actions_T7))
        if kind == GUESSED:
            return self._act(trial, self._guesses(trial))
        world = self.world if kind == TRAINED else self.dark
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
        texts = encoders.encode_instructions(self.place.assets["text_encoder"], [self.dark.instruction],
                                             self.place.folder / "instructions", cpu)
        conditions = Conditions(texts, self.place.assets["vision_encoder"], using.control_hz, cpu, torch.float32)
        return kind(policy.eval(), conditions, using, self.dark.instruction, SEED)

    def _act(self, trial: int, actions: Iterator[np.ndarray]) -> int | None:
        """Without a policy, in the dark."""
        self.dark.begin(self.start(trial), trial)
        self.dark.settle(SETTLING_STEPS)
        for step, action in zip(range(1, self.proof.longest + 1), actions, strict=False):
            if self.dark.step(action):
                return step
        return None

    def _guesses(self, trial: int) -> Iterator[np.ndarray]:
        """Return the expert's actions towards the middle of where the demonstrations' hands closed."""
        places = [e.position_m_T3[int((e.actions_T7[:, 6] > 0).argmax())] for e in self.dataset.episodes]
        expert = EXPERTS[self.proof.task](np.random.default_rng(trial))
        assert isinstance(expert, PutPuddingInTray)
        expert.guess_m = np.mean(places, axis=0) - expert.GRASP_M
        while True:
            yield expert.act(self.dark)


class BlankImages(Driver):
    """The blank-image ablation: the policy acts in the light as if it were dark."""

    def decide(self, robot: RobotState, frames_VCSS3: np.ndarray, trial: int, decision: int) -> np.ndarray:
        return super().decide(robot, np.zeros_like(frames_VCSS3), trial, decision)
