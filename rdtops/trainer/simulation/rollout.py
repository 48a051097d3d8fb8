"""Rollout: a policy controls the simulator, from observation to action, until success or the step limit.

A policy is used as it was trained: input are two frames and the current state, output is a chunk of actions, of which
the first are executed, and so on. Every random draw is a function of (seed, trial, decision), so a rollout does not
depend on others that run in parallel.

Shapes: H actions of a chunk, A slots (128), V history frames (2), C existing cameras (2), S pixels of an edge.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch

from rdtops.errors import SimulatorError
from rdtops.trainer.data.actions import SLOTS, Codec
from rdtops.trainer.data.observation import HISTORY, Observation, ObservationBatch
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy
from rdtops.trainer.simulation import simulator
from rdtops.trainer.simulation.simulator import SETTLING_STEPS, RobotState, Simulator

Z_95 = 1.959964


class Driver:
    """A policy with its codec: turns observations of the simulator into LIBERO's actions.

    It runs on the device of the conditions' tensors, within `autocast`.
    """

    def __init__(self, policy: RDTPolicy, conditions: Conditions, using: Codec, instruction: str, seed: int,
                 autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext) -> None:
        self.policy, self.conditions, self.codec = policy, conditions, using
        self.instruction = conditions.texts.index(instruction)
        self.seed, self.autocast = seed, autocast

    @property
    def horizon(self) -> int:
        """Number of actions of one decision."""
        return int(self.policy.config["pred_horizon"])

    def decide(self, robot: RobotState, frames_VCSS3: np.ndarray, trial: int, decision: int) -> np.ndarray:
        """Return the next actions as slots (H, A), float32. The noise is that of (seed, trial, decision)."""
        random = np.random.default_rng((self.seed, trial, decision))
        noise_BHA = torch.tensor(random.standard_normal((1, self.horizon, SLOTS), np.float32))
        device = self.conditions.lang_tokens.device
        told = ObservationBatch.of([self.observation(robot, frames_VCSS3)]).to(device)
        with self.autocast():
            slots_BHA = self.policy.predict_action(**self.conditions.of(told), noise=noise_BHA.to(device))
        return slots_BHA[0].float().cpu().numpy()

    def act(self, slots_A: np.ndarray, robot: RobotState) -> np.ndarray:
        """Decode one action (7,) in [-1, 1] of a decision, just before it is executed: `absolute_pose` needs the
        current pose. Raise SimulatorError for one that is not finite, which would crash the simulator."""
        pose_6 = np.concatenate([robot.position_m_3, robot.axis_angle_rad_3])
        action_7 = self.codec.decode_actions(slots_A[None], pose_6[None])[0].clip(-1, 1)
        if not np.isfinite(action_7).all():
            raise SimulatorError(f"the policy predicted an action that is not finite: {action_7.tolist()}")
        return action_7

    def observation(self, robot: RobotState, frames_VCSS3: np.ndarray) -> Observation:
        """Return the observation of the policy, as in training."""
        state_A = self.codec.encode_state(robot.joint_rad_7[None], robot.finger_m_2[None], robot.position_m_3[None],
                                          robot.axis_angle_rad_3[None])[0]
        kept_VC = np.ones(frames_VCSS3.shape[:2], bool)
        return Observation.undisturbed(self.codec, state_A, frames_VCSS3, kept_VC, self.instruction)


def rollout(world: Simulator, driver: Driver, state: np.ndarray, trial: int, exec_horizon: int, longest: int,
            on_step: Callable[[int, bool], None] = lambda _step, _done: None) -> int | None:
    """Run one trial. Return the steps until success, None when there was none within `longest`. The trial's number
    seeds its world and its noise.

    `exec_horizon` actions of a decision are executed before the next one. After each step `on_step` is called with its
    number, from 1, and whether the goal is reached.
    """
    assert exec_horizon <= driver.horizon
    world.begin(state, trial)
    world.settle(SETTLING_STEPS - 1)
    before = _seen(world)
    world.settle(1)
    for step in range(longest):
        decision, place = divmod(step, exec_horizon)
        if place == 0:
            frames_VCSS3 = np.stack([before, _seen(world)])
            assert len(frames_VCSS3) == HISTORY
            chunk_HA = driver.decide(world.robot(), frames_VCSS3, trial, decision)
        if place == exec_horizon - 1:
            before = _seen(world)
        done = world.step(driver.act(chunk_HA[place], world.robot()))
        on_step(step + 1, done)
        if done:
            return step + 1
    return None


def wilson(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Return Wilson's score interval of the success rate, from `successes` of `trials`."""
    share, spread = successes / trials, z * z / trials
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low, high = ((centre + side * half) / (1 + spread) for side in (-1, 1))
    return round(max(0.0, low), 4), round(min(1.0, high), 4)


def _seen(world: Simulator) -> np.ndarray:
    """Return the images (C, S, S, 3), black where the world has no renderer."""
    if world.has_images:
        return world.images()
    return np.zeros((len(simulator.CAMERAS), world.image_size, world.image_size, 3), np.uint8)
