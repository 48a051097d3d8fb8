"""Scripted experts: they know where things are, and show how a task is done. Demonstrations come from them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rdtops.trainer.simulator import RobotState, Simulator

GAIN_PER_M = 14.0  # action units per metre of distance: full speed from 7 cm on


class Expert(Protocol):
    def act(self, simulator: Simulator) -> np.ndarray:
        """The next action (7,), in [-1, 1]."""


class CloseTopDrawer:
    """Go in front of the handle with the gripper closed, then push the drawer in, along -y.

    `noise` is the standard deviation of what is added to the motion, in action units. `jitter` varies, from one expert
    to the next, the point that is pushed and the turn of the hand; 0 takes the same way every time.
    """

    HANDLE = "wooden_cabinet_1_g18"
    APPROACH_M = np.array([-0.02, 0.085, 0.007])  # from the handle: a little aside, in front, a little above
    APPROACH_JITTER_M = np.array([0.025, 0.015, 0.003])
    CLEARANCE_M = 0.06  # nearer to the handle than this, go around the drawer and not through it
    AIM_M = np.array([0.02, np.inf, 0.012])  # aligned well enough to push
    TURN_JITTER = np.array([0.015, 0.015, 0.25])  # action units
    TURN_STEPS = 12

    def __init__(self, random: np.random.Generator, noise: float = 0.0, jitter: float = 0.0) -> None:
        self._random, self._noise = random, noise
        self._approach_m = self.APPROACH_M + jitter * random.uniform(-1, 1, 3) * self.APPROACH_JITTER_M
        self._turn = jitter * random.uniform(-1, 1, 3) * self.TURN_JITTER
        self._step = 0
        self._pushing = False

    def act(self, simulator: Simulator) -> np.ndarray:
        motion = np.clip(self._motion(simulator.robot(), simulator.geom_m_3(self.HANDLE)), -1, 1)
        action = np.concatenate([motion + self._random.normal(0, self._noise, 3), np.zeros(3), [1.0]])
        if self._step < self.TURN_STEPS:
            action[3:6] = self._turn
        self._step += 1
        return np.clip(action, -1, 1)

    def _motion(self, robot: RobotState, handle_m: np.ndarray) -> np.ndarray:
        here, start = robot.position_m_3, handle_m + self._approach_m
        self._pushing = self._pushing or bool((np.abs(here - start) < self.AIM_M).all()
                                              and here[1] > handle_m[1] + self.CLEARANCE_M)
        if self._pushing:
            return np.array([*GAIN_PER_M * (start - here)[[0]], -1.0, *GAIN_PER_M * (start - here)[[2]]])
        if here[1] < handle_m[1] + self.CLEARANCE_M:  # beside the drawer: back and up first
            start = np.array([here[0] + 0.3 * (start[0] - here[0]), start[1] + 0.01, max(here[2], start[2] + 0.03)])
        return GAIN_PER_M * (start - here)


class PutSoupInBasket:
    """Hover over the can with the gripper open, go down, close, lift, carry it over the basket, let go.

    Fingers open 8 cm and the can is 6.6 cm wide: a grasp may be off by 7 mm. `noise` as above. `jitter` varies, from
    one expert to the next, where on the can it grasps and how high it carries.
    """

    CAN, BASKET = "alphabet_soup_1_main", "basket_1_main"
    GRASP_M = np.array([0, 0, 0.01])  # from the can's middle
    GRASP_JITTER_M = np.array([0.004, 0.002, 0.006])
    HOVER_M, CARRY_M, CARRY_JITTER_M = 0.09, 0.2, 0.02  # above the grasp
    OVER_CAN_M, OVER_BASKET_M, DEEP_M = 0.012, 0.03, 0.008  # near enough to go down, to let go, to close
    CLOSING_STEPS = 7

    def __init__(self, random: np.random.Generator, noise: float = 0.0, jitter: float = 0.0) -> None:
        self._random, self._noise = random, noise
        self._grasp_m = self.GRASP_M + jitter * random.uniform(-1, 1, 3) * self.GRASP_JITTER_M
        self._carry_m = self.CARRY_M + jitter * random.uniform(-1, 1) * self.CARRY_JITTER_M
        self._closed_steps = 0
        self._grasped_m: np.ndarray | None = None
        self._let_go = False
        self.guess_m: np.ndarray | None = None  # where it believes the can to be when it may not know

    def act(self, simulator: Simulator) -> np.ndarray:
        here, basket = simulator.robot().position_m_3, simulator.body_m_3(self.BASKET)
        can = simulator.body_m_3(self.CAN) if self.guess_m is None else self.guess_m
        target = self._reach(here, can) if self._grasped_m is None else self._bring(here, self._grasped_m, basket)
        motion = np.clip(GAIN_PER_M * (target - here), -1, 1) + self._random.normal(0, self._noise, 3)
        closed = self._grasped_m is not None and not self._let_go
        return np.clip(np.concatenate([motion, np.zeros(3), [1.0 if closed else -1.0]]), -1, 1)

    def _reach(self, here: np.ndarray, can: np.ndarray) -> np.ndarray:
        grasp = can + self._grasp_m
        off_m = np.hypot(*(here - grasp)[:2])
        if off_m < self.OVER_CAN_M and abs(here[2] - grasp[2]) < self.DEEP_M:
            self._grasped_m = here
            return here
        return grasp if off_m < self.OVER_CAN_M else grasp + np.array([0, 0, self.HOVER_M])

    def _bring(self, here: np.ndarray, grasped: np.ndarray, basket: np.ndarray) -> np.ndarray:
        self._closed_steps += 1
        carry_z = grasped[2] + self._carry_m
        over = np.hypot(*(here - basket)[:2]) < self.OVER_BASKET_M
        self._let_go = self._let_go or over
        if self._closed_steps < self.CLOSING_STEPS or self._let_go:
            return here
        aside = basket if here[2] > carry_z - self.CARRY_M / 2 else grasped  # straight up first
        return np.array([aside[0], aside[1], carry_z])


EXPERTS: dict[str, type[CloseTopDrawer] | type[PutSoupInBasket]] = {
    "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet": CloseTopDrawer,
    "LIVING_ROOM_SCENE1_pick_up_the_alphabet_soup_and_put_it_in_the_basket": PutSoupInBasket,
}
