"""Scripted experts: controllers that know the objects' positions and make the demonstrations of a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from rdtops.trainer.simulation.simulator import RobotState, Simulator

GAIN_PER_M = 14.0  # action units per metre of distance: full speed from 7 cm on
ARRIVED_M, LONGEST_WAY = 0.02, 60  # near enough; steps


class Expert(Protocol):
    def act(self, simulator: Simulator) -> np.ndarray:
        """Return the next action (7,), in [-1, 1]."""


def go(simulator: Simulator, target_m: np.ndarray) -> Iterator[None]:
    """Move the open hand straight towards a place, ignoring obstacles, as far as it gets. One step at each call."""
    for _ in range(LONGEST_WAY):
        way_m = target_m - simulator.robot().position_m_3
        if np.abs(way_m).max() < ARRIVED_M:
            return
        simulator.step(np.array([*np.clip(GAIN_PER_M * way_m, -1, 1), 0, 0, 0, -1.0]))
        yield


class CloseTopDrawer:
    """An expert that moves in front of the handle with the gripper closed, then pushes the drawer in, along -y.

    `noise` is the standard deviation of the noise added to the motion, in action units. `jitter` varies, from one
    expert to the next, the point that is pushed and the rotation of the hand; 0 takes the same path every time.
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


class PutPuddingInTray:
    """An expert that moves down over the pudding with the gripper open, grasps it, lifts it, carries it and releases
    it.

    Its motion depends only on the current places of hand and objects, except for the grasp and the release: down along
    a funnel, the lower the nearer it is to its axis, so that from anywhere there is one smooth path. The axis leans
    back, because the wrist camera looks ahead of the hand and does not see what is below it.
    The pudding lies 4.6 cm wide between fingers that open 8 cm, so a grasp may be off by 1.5 cm there, and along its
    8 cm by twice as much. `noise` as above. `jitter` varies, from one expert to the next, how high it carries.
    """

    PUDDING, TRAY = "chocolate_pudding_1_main", "wooden_tray_1_main"
    GRASP_M = np.array([0, 0, 0.0])  # from the pudding's middle
    ABOVE_M, STEEPNESS, FREE_M = 0.1, 4.0, 0.005  # the funnel: its height, m up a metre aside, aside at the bottom
    NEAR_M = np.array([0.01, 0.01, 0.005])  # near enough to close
    DEEPER_M = 0.01  # than the grasp it aims, or it would creep there
    LEAN, LEANING_M, LEAD_M = 0.4, 0.1, 0.01  # of the axis, m back a metre up; so high at most; aims so far down it
    CARRY_M, CARRY_JITTER_M, OVER_TRAY_M = 0.13, 0.02, 0.04
    CLOSING_STEPS = 5
    ELSEWHERE_M = np.array([[-0.08, -0.28, 0.52], [0.24, 0.14, 0.68]])  # the corners of where a hand may start
    NEARBY_M = np.array([[-0.1, -0.12, 0.01], [0.1, 0.12, 0.17]])  # or here, from the grasp
    NEARBY = 0.8  # so often

    def __init__(self, random: np.random.Generator, noise: float = 0.0, jitter: float = 0.0) -> None:
        self._random, self._noise = random, noise
        self._carry_m = self.CARRY_M + jitter * random.uniform(-1, 1) * self.CARRY_JITTER_M
        self._closed_steps = 0
        self._grasped_m: np.ndarray | None = None
        self._let_go = False
        self.guess_m: np.ndarray | None = None  # assumed place of the pudding when the true one is hidden

    def act(self, simulator: Simulator) -> np.ndarray:
        here, tray = simulator.robot().position_m_3, simulator.body_m_3(self.TRAY)
        grasp = self.GRASP_M + (simulator.body_m_3(self.PUDDING) if self.guess_m is None else self.guess_m)
        target = self._reach(here, grasp) if self._grasped_m is None else self._bring(here, self._grasped_m, tray)
        motion = np.clip(GAIN_PER_M * (target - here), -1, 1) + self._random.normal(0, self._noise, 3)
        closed = self._grasped_m is not None and not self._let_go
        return np.clip(np.concatenate([motion, np.zeros(3), [1.0 if closed else -1.0]]), -1, 1)

    def elsewhere_m(self, simulator: Simulator) -> np.ndarray:
        """Draw another start of the hand: anywhere over the table, or around the pudding and as low, where it gets
        after an error about the pudding's place."""
        if self._random.random() > self.NEARBY:
            return self._random.uniform(*self.ELSEWHERE_M)
        there_m = simulator.body_m_3(self.PUDDING) + self.GRASP_M + self._random.uniform(*self.NEARBY_M)
        there_m[:2] = there_m[:2].clip(*self.ELSEWHERE_M[:, :2])
        return there_m

    def _reach(self, here: np.ndarray, grasp: np.ndarray) -> np.ndarray:
        if (np.abs(here - grasp)[:2] < self.NEAR_M[:2]).all() and here[2] - grasp[2] < self.NEAR_M[2]:
            self._grasped_m = here
            return here
        up_m = here[2] - grasp[2]
        aside_m = np.hypot(*(here[:2] - self._axis_m(grasp, up_m)))
        above_m = np.clip(self.STEEPNESS * (aside_m - self.FREE_M), 0, self.ABOVE_M)
        return np.array([*self._axis_m(grasp, up_m - self.LEAD_M), grasp[2] + above_m - self.DEEPER_M])

    def _axis_m(self, grasp: np.ndarray, up_m: float) -> np.ndarray:
        """Return x, y of the funnel's axis at this height above the grasp."""
        return grasp[:2] - np.array([self.LEAN * np.clip(up_m, 0, self.LEANING_M), 0])

    def _bring(self, here: np.ndarray, grasped: np.ndarray, tray: np.ndarray) -> np.ndarray:
        self._closed_steps += 1
        carry_z = grasped[2] + self._carry_m
        self._let_go = self._let_go or np.hypot(*(here - tray)[:2]) < self.OVER_TRAY_M
        if self._closed_steps < self.CLOSING_STEPS or self._let_go:
            return here
        free = np.clip((here[2] - grasped[2]) / self._carry_m, 0, 1) ** 2  # straight up first
        return np.array([*(here[:2] + free * (tray - here)[:2]), carry_z])


EXPERTS: dict[str, type[CloseTopDrawer] | type[PutPuddingInTray]] = {
    "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet": CloseTopDrawer,
    "LIVING_ROOM_SCENE4_pick_up_the_chocolate_pudding_and_put_it_in_the_tray": PutPuddingInTray,
}
