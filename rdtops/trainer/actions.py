"""The codec between LIBERO's actions and state and the 128 slots of RDT. Units live here and nowhere else.

LIBERO (OSC_POSE, 20 Hz): an action is three position deltas, three axis-angle deltas and the gripper, each in [-1, 1];
1 stands for 0.05 m and 0.5 rad a step, so 1 m/s and 10 rad/s. The gripper opens at -1 and closes at +1. The state is
seven joint angles, the positions (+x, -x) of the two fingers, the gripper's position and its axis-angle rotation.

Shapes: T steps, A slots (128). Slots that a codec does not use hold zero and are False in its masks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rdtops.errors import WeightsError

SLOTS = 128
JOINTS = slice(0, 7)  # rad; slots 7 to 9 belong to arms with more joints
GRIPPER_OPEN = slice(10, 11)  # 0 closed, 1 open
POSITION = slice(30, 33)  # m
ROTATION_6D = slice(33, 39)  # the first two columns of the rotation matrix
VELOCITY = slice(39, 42)  # m/s
ANGULAR_VELOCITY = slice(42, 45)  # rad/s, axis-angle in the base frame
GRIPPER_WIDTH_OPEN_M = 0.08


@dataclass(frozen=True)
class DeltaVelocity:
    """`delta_velocity`: LIBERO's deltas are velocities, so they go to the velocity slots. A gain per group makes their
    spreads comparable."""

    name: str = "delta_velocity"
    version: int = 1
    control_hz: int = 20
    velocity_mps_per_unit: float = 1.0
    angular_velocity_radps_per_unit: float = 10.0
    velocity_gain: float = 1.0  # slot value per m/s
    angular_velocity_gain: float = 1.0  # slot value per rad/s

    @property
    def action_mask(self) -> np.ndarray:
        """(A,) bool."""
        return _mask(VELOCITY, ANGULAR_VELOCITY, GRIPPER_OPEN)

    @property
    def state_mask(self) -> np.ndarray:
        """(A,) bool."""
        return _mask(JOINTS, GRIPPER_OPEN, POSITION, ROTATION_6D)

    def encode_actions(self, actions_T7: np.ndarray) -> np.ndarray:
        """LIBERO's actions in [-1, 1] as slots (T, A), float32."""
        actions = np.asarray(actions_T7, np.float64)
        slots = np.zeros((len(actions), SLOTS))
        slots[:, VELOCITY] = actions[:, 0:3] * self._velocity_scale
        slots[:, ANGULAR_VELOCITY] = actions[:, 3:6] * self._angular_scale
        slots[:, GRIPPER_OPEN] = (1 - actions[:, 6:7]) / 2
        return slots.astype(np.float32)

    def decode_actions(self, slots_TA: np.ndarray) -> np.ndarray:
        """The inverse of encode_actions: (T, 7), float32. What a model predicts may lie outside [-1, 1]."""
        slots = np.asarray(slots_TA, np.float64)
        actions = np.zeros((len(slots), 7))
        actions[:, 0:3] = slots[:, VELOCITY] / self._velocity_scale
        actions[:, 3:6] = slots[:, ANGULAR_VELOCITY] / self._angular_scale
        actions[:, 6:7] = 1 - 2 * slots[:, GRIPPER_OPEN]
        return actions.astype(np.float32)

    def encode_state(self, joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3) -> np.ndarray:
        """The robot's state as slots (T, A), float32. Both fingers count: the gripper's width is their distance."""
        fingers = np.asarray(finger_m_T2, np.float64)
        slots = np.zeros((len(fingers), SLOTS))
        slots[:, JOINTS] = joint_rad_T7
        slots[:, GRIPPER_OPEN] = (fingers[:, 0:1] - fingers[:, 1:2]) / GRIPPER_WIDTH_OPEN_M
        slots[:, POSITION] = position_m_T3
        slots[:, ROTATION_6D] = rotation_6d(axis_angle_rad_T3)
        return slots.astype(np.float32)

    @property
    def hash(self) -> str:
        """Equal for codecs that do the same. Statistics and checkpoints are keyed by it."""
        return hashlib.md5(json.dumps(self._definition(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Its definition, its hash, and what it makes of the golden inputs."""
        return {**self._definition(), "hash": self.hash, "golden": self._golden()}

    def check_golden(self, saved: dict[str, Any]) -> None:
        """Raises WeightsError when this codec does not reproduce what was saved with a checkpoint."""
        if saved.get("name") != self.name or saved.get("hash") != self.hash:
            raise WeightsError(f"the checkpoint was trained with codec {saved.get('name')} ({saved.get('hash')}), "
                               f"this code has {self.name} ({self.hash}): its actions would be misread")
        for name, values in self._golden().items():
            if not np.allclose(values, saved["golden"][name], rtol=0, atol=1e-6):
                raise WeightsError(f"codec {self.name} does not reproduce the checkpoint's golden {name}: "
                                   "the code of rdtops.trainer.actions has changed since")

    @property
    def _velocity_scale(self) -> float:
        return self.velocity_mps_per_unit * self.velocity_gain

    @property
    def _angular_scale(self) -> float:
        return self.angular_velocity_radps_per_unit * self.angular_velocity_gain

    def _definition(self) -> dict[str, Any]:
        return {**asdict(self),
                "action_slots": np.flatnonzero(self.action_mask).tolist(),
                "state_slots": np.flatnonzero(self.state_mask).tolist()}

    def _golden(self) -> dict[str, list[list[float]]]:
        """Used slots only; unused ones are zero by the masks."""
        actions = np.array([[0, 0, 0, 0, 0, 0, -1], [1, -1, 0.5, 0.1, -0.2, 0.3, 1], [-0.25, 0.75, -1, 0, 1, -1, 0]])
        state = self.encode_state(
            np.array([[0, -0.2, 0, -2.4, 0, 2.2, 0.8], [0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7]]),
            np.array([[0.04, -0.04], [0.01, -0.02]]),
            np.array([[-0.2, 0, 1.17], [0.1, 0.2, 0.9]]),
            np.array([[np.pi, 0, 0], [0.3, -0.5, 1.1]]))
        encoded = self.encode_actions(actions)
        return {"actions": actions.tolist(), "encoded_actions": encoded[:, self.action_mask].tolist(),
                "decoded_actions": self.decode_actions(encoded).tolist(),
                "encoded_state": state[:, self.state_mask].tolist()}


CODECS = {"delta_velocity": DeltaVelocity}


def codec(name: str) -> DeltaVelocity:
    return CODECS[name]()


def rotation_6d(axis_angle_rad_T3) -> np.ndarray:
    """The first two columns of each rotation matrix, one after the other: (T, 6).

    Unlike the axis-angle it has no jump: a rotation by 3.15 rad and one by -3.13 rad about the same axis are equal.
    """
    vectors = np.asarray(axis_angle_rad_T3, np.float64)
    angle = np.linalg.norm(vectors, axis=1, keepdims=True)
    x, y, z = (vectors / np.where(angle > 0, angle, 1)).T
    cos, sin = np.cos(angle[:, 0]), np.sin(angle[:, 0])
    rest = 1 - cos
    first = [cos + x * x * rest, y * x * rest + z * sin, z * x * rest - y * sin]
    second = [x * y * rest - z * sin, cos + y * y * rest, z * y * rest + x * sin]
    return np.stack(first + second, axis=1)


def _mask(*slots: slice) -> np.ndarray:
    mask = np.zeros(SLOTS, bool)
    for some in slots:
        mask[some] = True
    return mask
