"""Pose checks: the observed pose against the joints. Both were read from one arm, so one follows from the other.

Each known error in writing a pose is undone in turn; the one after which the pose agrees with the joints was made.
Actions are not needed, and rotations need no motion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from rdtops.trainer.conventions import panda
from rdtops.trainer.conventions.finding import Finding, broken, doubtful, holds, unknown
from rdtops.trainer.data import rotations
from rdtops.trainer.data.libero import Episode

JOINTS, POSITION, ROTATION, TIMING = "joint_states is in rad", "ee_pos is in metres along the base's axes", \
    "ee_ori is an axis-angle", "the pose is of the same moment as the joints"
_POSITION_TOLERANCE_M = 0.001  # root mean square; recordings have 0.0004
_ROTATION_TOLERANCE_RAD = 0.03  # likewise; recordings have 0.002
_MOVED_M = 0.01
_FARTHEST_M, _FARTHEST_RAD = 10.0, 10.0  # beyond it the unit is wrong: an arm reaches 1 m, an axis-angle 2 pi
_SHIFTS = (-3, -2, -1, 1, 2, 3)
_AXES = "xyz"
Undo = Callable[[np.ndarray], np.ndarray]


class _Track(NamedTuple):
    """One episode: the observed pose, and the pose computed from the joints. The base's position is unknown, so
    positions are compared without their mean."""

    position_T3: np.ndarray
    rotation_T3: np.ndarray
    arm_position_T3: np.ndarray
    arm_rotation_T33: np.ndarray


def findings(episodes: Sequence[Episode]) -> list[Finding]:
    tracks = [_Track(e.position_m_T3.astype(np.float64), e.axis_angle_rad_T3.astype(np.float64),
                     *panda.gripper_pose(e.joint_rad_T7)) for e in episodes]
    joints = _joints(episodes)
    if joints.remedy:
        return [joints]
    lag = _lag(tracks)
    return [joints, lag, *([] if lag.remedy else [_position(tracks)]), _rotation(tracks)]


def _joints(episodes: Sequence[Episode]) -> Finding:
    farthest = max(float(np.abs(e.joint_rad_T7).max()) for e in episodes)
    seen = f"up to {farthest:.3g}"
    if farthest > _FARTHEST_RAD:
        return broken(JOINTS, "obs/joint_states is not in rad", seen, "write obs/joint_states in rad")
    return holds(JOINTS, "within one turn", seen)


def _position(tracks: Sequence[_Track]) -> Finding:
    moved = np.max([np.ptp(t.arm_position_T3, axis=0) for t in tracks], axis=0)
    if moved.max() < _MOVED_M:
        return unknown(POSITION, "the arm hardly moves", f"{1000 * moved.max():.1f} mm")
    error = {name: _position_error(tracks, undo) for name, undo in _POSITIONS.items()}
    as_is, best = error[""], min(error, key=lambda name: error[name])
    seen = f"{1000 * as_is:.1f} mm from the position computed from the joints"
    if as_is <= _POSITION_TOLERANCE_M:
        told = "".join(a for a, m in zip(_AXES, moved, strict=True) if m >= _MOVED_M)
        return holds(POSITION, f"it follows the joints along {', '.join(told)}", seen)
    if error[best] <= max(_POSITION_TOLERANCE_M, 0.1 * as_is):
        say = broken if max(np.abs(t.position_T3).max() for t in tracks) > _FARTHEST_M else doubtful
        return say(POSITION, best, f"{seen}; {1000 * error[best]:.1f} mm when this is undone",
                   "rewrite obs/ee_pos from the simulator's robot0_eef_pos")
    return doubtful(POSITION, "obs/ee_pos does not follow the joints", seen,
                  "rewrite obs/ee_pos and obs/joint_states from one playback")


def _rotation(tracks: Sequence[_Track]) -> Finding:
    error = {name: _rotation_error(tracks, undo) for name, undo in _ROTATIONS.items()}
    as_is, best = error[""], min(error, key=lambda name: error[name])
    seen = f"{as_is:.3f} rad from the rotation computed from the joints"
    if as_is <= _ROTATION_TOLERANCE_RAD:
        return holds(ROTATION, "it follows the joints", seen)
    if error[best] <= max(_ROTATION_TOLERANCE_RAD, 0.1 * as_is):
        say = broken if max(np.abs(t.rotation_T3).max() for t in tracks) > _FARTHEST_RAD else doubtful
        return say(ROTATION, best, f"{seen}; {error[best]:.3f} rad when read so",
                   "rewrite obs/ee_ori: the axis-angle of the simulator's robot0_eef_quat (x, y, z, w)")
    return doubtful(ROTATION, "obs/ee_ori does not follow the joints", seen,
                  "rewrite obs/ee_ori and obs/joint_states from one playback")


def _lag(tracks: Sequence[_Track]) -> Finding:
    """Find whether the pose is some steps off, or does not change. Only positions are precise enough."""
    if max(np.ptp(t.arm_position_T3, axis=0).max() for t in tracks) < _MOVED_M:
        return unknown(TIMING, "the arm hardly moves")
    if all(np.ptp(t.position_T3, axis=0).max() == 0 for t in tracks):
        return broken(TIMING, "obs/ee_pos is frozen: the same in every step while the joints move", "0 mm of motion",
                      "rewrite obs/ee_pos, one row for each step")
    as_is = _position_error(tracks, lambda p: p)
    error = {shift: _position_error(tracks, lambda p: p, shift) for shift in _SHIFTS}
    best = min(error, key=lambda shift: error[shift])
    seen = f"{1000 * as_is:.1f} mm apart; {1000 * error[best]:.1f} mm when moved by {best:+d} steps"
    if as_is > _POSITION_TOLERANCE_M and error[best] < min(_POSITION_TOLERANCE_M, 0.3 * as_is):
        return doubtful(TIMING, f"obs/ee_pos is off by {abs(best)}: {'late' if best > 0 else 'early'} by so many steps "
                      "against the joints", seen, "rewrite all of obs from one playback: each row from one moment")
    return holds(TIMING, "no other moment fits better", seen)


def _position_error(tracks: Sequence[_Track], undo: Undo, shift: int = 0) -> float:
    """Return the root mean square in m, without a constant offset. Late by 1: row t shows the arm of row t - 1."""
    squares = []
    for t in tracks:
        off = _moved(undo(t.position_T3), shift) - _moved(t.arm_position_T3, -shift)
        squares.append(((off - off.mean(0)) ** 2).sum(1))
    return float(np.sqrt(np.concatenate(squares).mean()))


def _rotation_error(tracks: Sequence[_Track], undo: Undo) -> float:
    angles = [np.linalg.norm(rotations.axis_angle(undo(t.rotation_T3) @ t.arm_rotation_T33.transpose(0, 2, 1)), axis=1)
              for t in tracks]
    return float(np.sqrt((np.concatenate(angles) ** 2).mean()))


def _moved(rows: np.ndarray, shift: int) -> np.ndarray:
    return rows[shift:] if shift > 0 else rows[:len(rows) + shift] if shift < 0 else rows


def _positions() -> dict[str, Undo]:
    undo: dict[str, Undo] = {"": lambda p: p, "obs/ee_pos is in centimetres": lambda p: p / 100,
                             "obs/ee_pos is in millimetres": lambda p: p / 1000}
    for signs in itertools.product((1, -1), repeat=3):
        if -1 in signs:
            flipped = ", ".join(a for a, s in zip(_AXES, signs, strict=True) if s < 0)
            undo[f"obs/ee_pos: axis {flipped} flipped"] = partial(np.multiply, signs)
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            written = ", ".join(_AXES[order.index(i)] for i in range(3))
            undo[f"obs/ee_pos: axes in the order {written}"] = partial(np.take, indices=order, axis=1)
    return undo


def _quaternion_order(axis_angle_T3: np.ndarray) -> np.ndarray:
    """Undo that w, x, y, z was read as x, y, z, w before the conversion to an axis-angle."""
    angle = np.linalg.norm(axis_angle_T3, axis=1, keepdims=True)
    axis = axis_angle_T3 / np.where(angle > 0, angle, 1)
    w_T1, xyz_T3 = axis[:, 0:1] * np.sin(angle / 2), np.hstack([axis[:, 1:3] * np.sin(angle / 2), np.cos(angle / 2)])
    half = np.arctan2(np.linalg.norm(xyz_T3, axis=1, keepdims=True), w_T1)
    return rotations.matrix(2 * half * xyz_T3 / np.maximum(np.linalg.norm(xyz_T3, axis=1, keepdims=True), 1e-12))


_POSITIONS = _positions()
_ROTATIONS: dict[str, Undo] = {
    "": rotations.matrix,
    "obs/ee_ori holds Euler angles (fixed x, y, z), not an axis-angle": rotations.from_euler,
    "obs/ee_ori holds Euler angles in the order z, y, x, not an axis-angle": lambda r: rotations.from_euler(r[:, ::-1]),
    "obs/ee_ori is in degrees": lambda r: rotations.matrix(np.deg2rad(r)),
    "obs/ee_ori is the inverse rotation: the base seen from the hand": lambda r: rotations.matrix(-r),
    "obs/ee_ori comes from a quaternion in the wrong order (w first)": _quaternion_order,
}
