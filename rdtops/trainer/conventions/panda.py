"""Forward kinematics of the Panda arm in LIBERO's simulator: the gripper's pose for given joint angles.

Lengths and rotations are those of robosuite's panda model (version 1.4.0) and its gripper. Against recordings the
result agrees to 1 mm and 0.003 rad while the arm moves, and to a few hundredths of a millimetre when it stands still.
"""

from __future__ import annotations

import numpy as np

from rdtops.trainer.data import rotations

_QUARTER = np.pi / 2
_LINKS = (  # before each joint: offset in m, then a rotation about x in rad; every joint rotates about its own z
    ((0, 0, 0.333), 0), ((0, 0, 0), -_QUARTER), ((0, -0.316, 0), _QUARTER), ((0.0825, 0, 0), _QUARTER),
    ((-0.0825, 0.384, 0), -_QUARTER), ((0, 0, 0), _QUARTER), ((0.088, 0, 0), _QUARTER))
_HAND_OFFSET_M, _HAND_TURN_RAD = (0, 0, 0.1065), -np.pi / 4  # about z
_GRIP_OFFSET_M = (0, 0, 0.097)  # from the hand to the point between the fingers


def gripper_pose(joint_rad_T7: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return position (T, 3) in m and rotation (T, 3, 3) in the frame of the arm's own base."""
    joints = np.asarray(joint_rad_T7, np.float64)
    position, rotation = np.zeros((len(joints), 3)), np.tile(np.eye(3), (len(joints), 1, 1))
    for number, (offset_m, turn_rad) in enumerate(_LINKS):
        position = position + rotation @ np.array(offset_m)
        rotation = rotation @ _about(0, np.array([turn_rad])) @ _about(2, joints[:, number])
    position = position + rotation @ np.array(_HAND_OFFSET_M)
    rotation = rotation @ _about(2, np.array([_HAND_TURN_RAD]))
    return position + rotation @ np.array(_GRIP_OFFSET_M), rotation


def _about(axis: int, angle_rad_T: np.ndarray) -> np.ndarray:
    return rotations.matrix(angle_rad_T[:, None] * np.eye(3)[axis])
