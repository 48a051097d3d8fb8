"""Rotations: axis-angle (stored by LIBERO), matrices (to compose), two columns (learnt by RDT), Euler angles (used by
some by mistake). Everything in float64 and rad; T rotations at once."""

from __future__ import annotations

import numpy as np

_FAR_FROM_HALF_A_TURN = -0.9  # cosine: above it the skew part alone is accurate


def matrix(axis_angle_rad_T3) -> np.ndarray:
    """Return the matrices (T, 3, 3), by Rodrigues' formula."""
    vectors = np.asarray(axis_angle_rad_T3, np.float64)
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    axis = _skew(vectors / np.where(angle[:, 0] > 0, angle[:, 0], 1))
    return np.eye(3) + np.sin(angle) * axis + (1 - np.cos(angle)) * (axis @ axis)


def axis_angle(matrix_T33) -> np.ndarray:
    """Return the inverse of `matrix`: (T, 3), of an angle from 0 to pi."""
    rotation = np.asarray(matrix_T33, np.float64)
    skew = np.stack([rotation[:, 2, 1] - rotation[:, 1, 2], rotation[:, 0, 2] - rotation[:, 2, 0],
                     rotation[:, 1, 0] - rotation[:, 0, 1]], axis=1) / 2  # axis * sin(angle)
    sin, cos = np.linalg.norm(skew, axis=1), (np.trace(rotation, axis1=1, axis2=2) - 1) / 2
    angle = np.arctan2(sin, cos)[:, None]
    near = skew * np.where(sin > 0, angle[:, 0] / np.where(sin > 0, sin, 1), 1)[:, None]
    return np.where((cos > _FAR_FROM_HALF_A_TURN)[:, None], near, _axis_far_from_0(rotation, skew, cos) * angle)


def from_quaternion(quaternion_xyzw_T4) -> np.ndarray:
    """Return the axis-angles (T, 3) as robosuite's quat2axisangle gives them, which LIBERO's files and the evaluation
    hold: an angle from 0 to 2 pi, by the sign of w."""
    quaternions = np.asarray(quaternion_xyzw_T4, np.float64)
    w_T1 = np.clip(quaternions[:, 3:], -1, 1)
    sine_T1 = np.sqrt(1 - w_T1 ** 2)
    return np.where(sine_T1 > 1e-9, quaternions[:, :3] / np.maximum(sine_T1, 1e-9) * 2 * np.arccos(w_T1), 0)


def columns(matrix_T33) -> np.ndarray:
    """Return the first two columns, one after the other: (T, 6)."""
    rotation = np.asarray(matrix_T33, np.float64)
    return np.concatenate([rotation[:, :, 0], rotation[:, :, 1]], axis=1)


def from_columns(columns_T6) -> np.ndarray:
    """Return the matrices (T, 3, 3). A prediction is not exactly orthonormal: the first column keeps its direction, the
    second is made orthogonal to it (Gram-Schmidt)."""
    both = np.asarray(columns_T6, np.float64)
    first = _unit(both[:, 0:3])
    second = _unit(both[:, 3:6] - (first * both[:, 3:6]).sum(1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], axis=2)


def rotation_6d(axis_angle_rad_T3) -> np.ndarray:
    """Return `columns` of an axis-angle: (T, 6). Unlike the axis-angle it has no jump: a rotation by 3.15 rad and one
    by -3.13 rad about the same axis are equal."""
    return columns(matrix(axis_angle_rad_T3))


def from_euler(euler_rad_T3) -> np.ndarray:
    """Return the matrices (T, 3, 3): about the fixed x axis, then y, then z, which is `xyz` in scipy."""
    angles = np.asarray(euler_rad_T3, np.float64)
    x, y, z = (matrix(angles[:, [i]] * np.eye(3)[i]) for i in range(3))
    return z @ y @ x


def euler(matrix_T33) -> np.ndarray:
    """Return the inverse of `from_euler`: (T, 3), the second angle from -pi/2 to pi/2."""
    rotation = np.asarray(matrix_T33, np.float64)
    return np.stack([np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2]), np.arcsin(np.clip(-rotation[:, 2, 0], -1, 1)),
                     np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])], axis=1)


def _axis_far_from_0(rotation_T33: np.ndarray, skew_T3: np.ndarray, cos_T: np.ndarray) -> np.ndarray:
    """Return the axis from the symmetric part, cos * 1 + (1 - cos) * axis axis'. Its sign comes from the skew part."""
    rest = np.maximum(1 - cos_T, 1e-12)[:, None, None]
    outer = ((rotation_T33 + rotation_T33.transpose(0, 2, 1)) / 2 - cos_T[:, None, None] * np.eye(3)) / rest
    largest = np.argmax(np.diagonal(outer, axis1=1, axis2=2), axis=1)
    axis = _unit(outer[np.arange(len(outer)), largest])
    return axis * np.where((axis * skew_T3).sum(1, keepdims=True) < 0, -1, 1)


def _skew(vectors_T3: np.ndarray) -> np.ndarray:
    """Return the matrices of the cross product with each vector: (T, 3, 3)."""
    x, y, z = vectors_T3.T
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)


def _unit(vectors_T3: np.ndarray) -> np.ndarray:
    return vectors_T3 / np.maximum(np.linalg.norm(vectors_T3, axis=1, keepdims=True), 1e-12)
