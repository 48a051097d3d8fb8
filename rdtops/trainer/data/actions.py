"""Codecs between LIBERO's actions and state and the 128 slots of RDT. Units are converted here and nowhere else.

LIBERO (OSC_POSE, 20 Hz): an action is three position deltas, three axis-angle deltas and the gripper, each in [-1, 1];
1 stands for 0.05 m and 0.5 rad a step, so 1 m/s and 10 rad/s. Rotations are left-multiplied: about the axes of the
robot's base. The gripper opens at -1 and closes at +1. The state is seven joint angles, the positions (+x, -x) of the
two fingers, the gripper's position and its axis-angle rotation.

A pose is position (m) and axis-angle (rad) side by side, (T, 6): where the gripper is just before each action. Only
`absolute_pose` uses it.

Shapes: T steps, A slots (128). Slots that a codec does not use hold zero and are False in its masks. The state's mask
names the slots that the robot measures, the action's those that the model predicts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from rdtops.errors import WeightsError
from rdtops.trainer.data import rotations
from rdtops.trainer.data.rotations import rotation_6d

SLOTS = 128
JOINTS = slice(0, 7)  # rad; slots 7 to 9 are for arms with more joints
GRIPPER_OPEN = slice(10, 11)  # 0 closed, 1 open
POSITION = slice(30, 33)  # m
ROTATION_6D = slice(33, 39)  # the first two columns of the rotation matrix
VELOCITY = slice(39, 42)  # m/s
ANGULAR_VELOCITY = slice(42, 45)  # rad/s, axis-angle in the base frame
GRIPPER_WIDTH_OPEN_M = 0.08
POSITION_M_PER_UNIT, ROTATION_RAD_PER_UNIT = 0.05, 0.5  # of a LIBERO action, for one step
_SLOT_NAMES = ((JOINTS, "joint", "rad"), (GRIPPER_OPEN, "gripper open", "0 to 1"), (POSITION, "position", "m"),
               (ROTATION_6D, "rotation", "column"), (VELOCITY, "velocity", "m/s"),
               (ANGULAR_VELOCITY, "angular velocity", "rad/s"))


@dataclass(frozen=True)
class Codec:
    """The base of all codecs: the state, the hash, and the golden vectors that a checkpoint keeps."""

    name: str
    version: int = 1
    control_hz: int = 20
    closed_loop: ClassVar[bool] = False  # True: decode each action just before executing it, with the current pose

    @property
    def action_mask(self) -> np.ndarray:
        """(A,) bool."""
        raise NotImplementedError

    @property
    def state_mask(self) -> np.ndarray:
        """(A,) bool."""
        return _mask(JOINTS, GRIPPER_OPEN, POSITION, ROTATION_6D)

    def encode_actions(self, actions_T7: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        """Return LIBERO's actions in [-1, 1], and the pose before each, as slots (T, A), float32."""
        raise NotImplementedError

    def decode_actions(self, slots_TA: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        """Return the inverse of encode_actions, given the same pose: (T, 7), float32."""
        raise NotImplementedError

    def encode_state(self, joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3) -> np.ndarray:
        """Return the robot's state as slots (T, A), float32. Both fingers count: the gripper's width is their
        distance."""
        fingers = np.asarray(finger_m_T2, np.float64)
        slots = np.zeros((len(fingers), SLOTS))
        slots[:, JOINTS] = joint_rad_T7
        slots[:, GRIPPER_OPEN] = (fingers[:, 0:1] - fingers[:, 1:2]) / GRIPPER_WIDTH_OPEN_M
        slots[:, POSITION] = position_m_T3
        slots[:, ROTATION_6D] = rotation_6d(axis_angle_rad_T3)
        return slots.astype(np.float32)

    @property
    def hash(self) -> str:
        """A hash that is equal for codecs with the same behaviour. Statistics and checkpoints are keyed by it."""
        return hashlib.md5(json.dumps(self._definition(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the definition, the hash, and the golden inputs with their results."""
        return {**self._definition(), "hash": self.hash, "golden": self._golden()}

    def check_golden(self, saved: dict[str, Any]) -> None:
        """Raise WeightsError, naming each difference, unless this is the codec saved with a checkpoint."""
        differences = _differences(saved, {**self._definition(), "hash": self.hash})
        if differences:
            raise WeightsError(f"the checkpoint's codec differs from that of this code: {'; '.join(differences)}: "
                               "its actions would be decoded wrongly", remedy=f"--set codec={saved.get('name')}"
                               if saved.get("name") in CODECS and saved.get("name") != self.name else "")
        changed = _golden_differences(saved.get("golden", {}), self._golden())
        if changed:
            raise WeightsError(f"codec {self.name} does not reproduce the checkpoint's golden vectors: "
                               f"{'; '.join(changed)}: rdtops.trainer.data.actions has changed since it was saved")

    def _definition(self) -> dict[str, Any]:
        return {**asdict(self),
                "action_slots": np.flatnonzero(self.action_mask).tolist(),
                "state_slots": np.flatnonzero(self.state_mask).tolist()}

    def _golden(self) -> dict[str, list[list[float]]]:
        """Return raw observations and actions, and their slots. Used slots only: by the masks the others are 0."""
        joints = np.array([[0, -0.2, 0, -2.4, 0, 2.2, 0.8], [0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7],
                           [0, 0.1, -0.3, -1.9, 0, 2.0, -0.8]])
        fingers = np.array([[0.04, -0.04], [0.01, -0.02], [0, 0]])
        pose = np.array([[-0.2, 0, 1.17, np.pi, 0, 0], [0.1, 0.2, 0.9, 0.3, -0.5, 1.1], [0, -0.3, 1, 2.2, 2.2, 0.1]])
        actions = np.array([[0, 0, 0, 0, 0, 0, -1], [1, -1, 0.5, 0.1, -0.2, 0.3, 1], [-0.25, 0.75, -1, 0, 1, -1, 0]])
        state = self.encode_state(joints, fingers, pose[:, 0:3], pose[:, 3:6])
        encoded = self.encode_actions(actions, pose)
        return {"joint_rad": joints.tolist(), "finger_m": fingers.tolist(), "pose": pose.tolist(),
                "encoded_state": state[:, self.state_mask].tolist(),
                "actions": actions.tolist(), "encoded_actions": encoded[:, self.action_mask].tolist(),
                "decoded_actions": self.decode_actions(encoded, pose).tolist()}


@dataclass(frozen=True)
class DeltaVelocity(Codec):
    """`delta_velocity`: LIBERO's deltas are velocities, so they go to the velocity slots. A gain per group makes their
    spreads comparable. A model's prediction may decode to more than 1."""

    name: str = "delta_velocity"
    velocity_mps_per_unit: float = 1.0
    angular_velocity_radps_per_unit: float = 10.0
    velocity_gain: float = 1.0  # slot value per m/s
    angular_velocity_gain: float = 1.0  # slot value per rad/s

    @property
    def action_mask(self) -> np.ndarray:
        return _mask(VELOCITY, ANGULAR_VELOCITY, GRIPPER_OPEN)

    def encode_actions(self, actions_T7: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        actions = np.asarray(actions_T7, np.float64)
        slots = np.zeros((len(actions), SLOTS))
        slots[:, VELOCITY] = actions[:, 0:3] * self._velocity_scale
        slots[:, ANGULAR_VELOCITY] = actions[:, 3:6] * self._angular_scale
        slots[:, GRIPPER_OPEN] = (1 - actions[:, 6:7]) / 2
        return slots.astype(np.float32)

    def decode_actions(self, slots_TA: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        slots = np.asarray(slots_TA, np.float64)
        actions = np.zeros((len(slots), 7))
        actions[:, 0:3] = slots[:, VELOCITY] / self._velocity_scale
        actions[:, 3:6] = slots[:, ANGULAR_VELOCITY] / self._angular_scale
        actions[:, 6:7] = 1 - 2 * slots[:, GRIPPER_OPEN]
        return actions.astype(np.float32)

    @property
    def _velocity_scale(self) -> float:
        return self.velocity_mps_per_unit * self.velocity_gain

    @property
    def _angular_scale(self) -> float:
        return self.angular_velocity_radps_per_unit * self.angular_velocity_gain


@dataclass(frozen=True)
class AbsolutePose(Codec):
    """`absolute_pose`: the gripper's target pose, in the pose slots.

    The target is the pose before the action, moved by the action's 0.05 m and rotated by its 0.5 rad a unit, about the
    base's axes: `exp(0.5 a) R`. That is the controller's goal, not the arm's next pose: the arm lags behind. Decoding
    gives the delta from the current pose to the target, each number clipped to [-1, 1], so the next step corrects what
    one step did not reach.
    """

    name: str = "absolute_pose"
    position_m_per_unit: float = POSITION_M_PER_UNIT
    rotation_rad_per_unit: float = ROTATION_RAD_PER_UNIT
    closed_loop: ClassVar[bool] = True

    @property
    def action_mask(self) -> np.ndarray:
        return _mask(POSITION, ROTATION_6D, GRIPPER_OPEN)

    def encode_actions(self, actions_T7: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        actions, pose = np.asarray(actions_T7, np.float64), _required(pose_T6, len(actions_T7))
        turned = rotations.matrix(actions[:, 3:6] * self.rotation_rad_per_unit) @ rotations.matrix(pose[:, 3:6])
        slots = np.zeros((len(actions), SLOTS))
        slots[:, POSITION] = pose[:, 0:3] + actions[:, 0:3] * self.position_m_per_unit
        slots[:, ROTATION_6D] = rotations.columns(turned)
        slots[:, GRIPPER_OPEN] = (1 - actions[:, 6:7]) / 2
        return slots.astype(np.float32)

    def decode_actions(self, slots_TA: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        slots, pose = np.asarray(slots_TA, np.float64), _required(pose_T6, len(slots_TA))
        turn = rotations.from_columns(slots[:, ROTATION_6D]) @ rotations.matrix(pose[:, 3:6]).transpose(0, 2, 1)
        actions = np.zeros((len(slots), 7))
        actions[:, 0:3] = (slots[:, POSITION] - pose[:, 0:3]) / self.position_m_per_unit
        actions[:, 3:6] = rotations.axis_angle(turn) / self.rotation_rad_per_unit
        actions[:, 6:7] = 1 - 2 * slots[:, GRIPPER_OPEN]
        return actions.clip(-1, 1).astype(np.float32)


@dataclass(frozen=True)
class SeedCompat(Codec):
    """`seed_compat`: the encoding of the code before rdtops, so that checkpoints trained with it can be evaluated.

    Not for new trainings. Its errors, each as in that training:
    - deltas go to the slots of absolute poses, which hold poses in everything the model was pretrained on;
    - a unit of position is 1.2 (the observed motion of the arm in centimetres, while the controller is commanded
    5 cm); for a time it was 0.012, the same in metres: that is `seed_compat_m`;
    - rotation deltas are 0.5 rad a unit, but read as Euler angles (fixed x, y, z), then two columns of the matrix;
    - the gripper is inverted: the slot `gripper open` is 1 when the action closes;
    - `ee_ori`, an axis-angle, is read as Euler angles in the state too;
    - the state's gripper is the position of the first finger in metres (0 to 0.04), not the width;
    - the action's mask is the state's: it contains the joints, though no action ever fills them.
    Errors of its evaluation alone are not reproduced, because the weights never saw them: the rotation from the
    quaternion, the mean of both fingers (always 0), a mask of ones, the current frame as history. Nor is the error of
    its sampling: it paired obs[t] with actions[t:], so in data with observations after the action the first action
    of a chunk is the one that was just executed.
    """

    name: str = "seed_compat"
    position_per_unit: float = 1.2  # cm
    rotation_rad_per_unit: float = ROTATION_RAD_PER_UNIT

    @property
    def action_mask(self) -> np.ndarray:
        return self.state_mask

    def encode_actions(self, actions_T7: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        actions = np.asarray(actions_T7, np.float64)
        slots = np.zeros((len(actions), SLOTS))
        slots[:, POSITION] = actions[:, 0:3] * self.position_per_unit
        slots[:, ROTATION_6D] = rotations.columns(rotations.from_euler(actions[:, 3:6] * self.rotation_rad_per_unit))
        slots[:, GRIPPER_OPEN] = (1 + actions[:, 6:7]) / 2
        return slots.astype(np.float32)

    def decode_actions(self, slots_TA: np.ndarray, pose_T6: np.ndarray | None = None) -> np.ndarray:
        slots = np.asarray(slots_TA, np.float64)
        actions = np.zeros((len(slots), 7))
        actions[:, 0:3] = slots[:, POSITION] / self.position_per_unit
        actions[:, 3:6] = rotations.euler(rotations.from_columns(slots[:, ROTATION_6D])) / self.rotation_rad_per_unit
        actions[:, 6:7] = 2 * slots[:, GRIPPER_OPEN] - 1
        return actions.astype(np.float32)

    def encode_state(self, joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3) -> np.ndarray:
        slots = super().encode_state(joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3)
        slots[:, GRIPPER_OPEN] = np.asarray(finger_m_T2)[:, 0:1]
        slots[:, ROTATION_6D] = rotations.columns(rotations.from_euler(axis_angle_rad_T3))
        return slots


CODECS = {c.name: c for c in (DeltaVelocity(), AbsolutePose(), SeedCompat(),
                              SeedCompat(name="seed_compat_m", position_per_unit=0.012))}


def codec(name: str) -> Codec:
    return CODECS[name]


def slot_name(slot: int) -> str:
    """Return a readable name of a slot, such as `velocity 0 (m/s)`."""
    for slots, name, unit in _SLOT_NAMES:
        if slots.start <= slot < slots.stop:
            number = f" {slot - slots.start}" if slots.stop - slots.start > 1 else ""
            return f"slot {slot}, {name}{number} ({unit})"
    return f"slot {slot}, unused"


def _required(pose_T6: np.ndarray | None, length: int) -> np.ndarray:
    assert pose_T6 is not None, "absolute_pose needs the pose before each action"
    pose = np.asarray(pose_T6, np.float64)
    assert pose.shape == (length, 6), f"a pose of 6 numbers for each of {length} actions, not {pose.shape}"
    return pose


def _differences(saved: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Describe differences: `velocity_gain 1.0 in the checkpoint, 2.0 here`; the hash only if nothing else differs."""
    missing = "nothing"
    found = {key: f"{key} {saved.get(key, missing)} in the checkpoint, {here.get(key, missing)} here"
             for key in [*here, *(k for k in saved if k not in here and k != "golden")]
             if saved.get(key, missing) != here.get(key, missing)}
    return [text for key, text in found.items() if key != "hash" or len(found) == 1]


def _golden_differences(saved: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Describe the first number of each golden tensor that differs from the saved one."""
    found = []
    for name, values in here.items():
        now, then = np.asarray(values), np.asarray(saved.get(name, []))
        if then.shape != now.shape:
            found.append(f"golden {name} is {then.shape} in the checkpoint, {now.shape} here")
        elif (off := np.argwhere(~np.isclose(now, then, rtol=0, atol=1e-6))).size:
            place = tuple(off[0])
            found.append(f"golden {name} {list(map(int, place))} {then[place]:.7g} in the checkpoint, "
                         f"{now[place]:.7g} here")
    return found


def _mask(*slots: slice) -> np.ndarray:
    mask = np.zeros(SLOTS, bool)
    for some in slots:
        mask[some] = True
    return mask
