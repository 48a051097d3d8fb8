"""Codec checks: each slot holds what its name says, and decoding gives back what was encoded.

The codec is called as the training calls it; the expected values are derived here from the demonstrations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rdtops.trainer.conventions.finding import Finding, broken, holds
from rdtops.trainer.data import rotations
from rdtops.trainer.data.actions import (
    ANGULAR_VELOCITY,
    GRIPPER_OPEN,
    GRIPPER_WIDTH_OPEN_M,
    JOINTS,
    POSITION,
    POSITION_M_PER_UNIT,
    ROTATION_6D,
    ROTATION_RAD_PER_UNIT,
    VELOCITY,
    Codec,
    slot_name,
)
from rdtops.trainer.data.libero import Episode

ROUND_TRIP, SLOT_UNITS, STATE, MASKS = "decoding gives back what was encoded", "action slots match their names", \
    "state slots match their names", "masks name the slots that are filled"
_NAMES = ("position x", "position y", "position z", "rotation x", "rotation y", "rotation z", "gripper")
_FIX = "fix the codec in rdtops/trainer/data/actions.py and raise its version"
_STEPS = 200  # of each file; a codec does the same to every step


def findings(episodes: Sequence[Episode], codec: Codec) -> list[Finding]:
    actions, pose = _probes(episodes)
    states = _states(episodes)
    return [_round_trip(codec, actions, pose), _slot_units(codec, actions, pose), _state(codec, states),
            _masks(codec, codec.encode_actions(actions, pose), codec.encode_state(*states))]


def _probes(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
    """Return recorded actions with the pose before each, and single-number actions, which the data may lack."""
    actions = np.concatenate([e.actions_T7[e.lead:] for e in episodes])[:_STEPS]
    pose = np.concatenate([e.pose_T6[:e.starts] for e in episodes])[:_STEPS]
    single = np.concatenate([0.5 * np.eye(7), -0.5 * np.eye(7)])
    return np.concatenate([actions, single]), np.concatenate([pose, np.tile(pose[:1], (len(single), 1))])


def _round_trip(codec: Codec, actions: np.ndarray, pose: np.ndarray) -> Finding:
    back = codec.decode_actions(codec.encode_actions(actions, pose), pose)
    off = np.abs(back - actions).max(0)
    wrong = [_came_back(number, actions[:, number], back) for number in range(7) if off[number] > 1e-3]
    seen = f"largest difference {off.max():.2g} of a unit, over {len(actions)} actions"
    return broken(ROUND_TRIP, "; ".join(wrong), seen, _FIX) if wrong else holds(ROUND_TRIP, "every number", seen)


def _came_back(number: int, sent: np.ndarray, back: np.ndarray) -> str:
    """Describe how decoding changed a number."""
    name, here = _NAMES[number], back[:, number]
    if np.ptp(here) < 1e-3:
        return f"{name} is decoded as a constant {here[0]:.2g}"
    other = next((o for o in range(7) if o != number and np.allclose(back[:, o], sent, atol=1e-3)), None)
    if other is not None:
        return f"{name} is decoded as {_NAMES[other]}"
    factor = float((here * sent).sum() / (sent**2).sum())
    if np.allclose(here, factor * sent, atol=1e-3):
        return f"{name} is decoded with the opposite sign" if abs(factor + 1) < 1e-3 else \
            f"{name} is decoded {factor:.3g} times as large"
    return f"{name} is decoded to another value"


def _slot_units(codec: Codec, actions: np.ndarray, pose: np.ndarray) -> Finding:
    slots = codec.encode_actions(actions, pose).astype(np.float64)
    wrong = [*_velocities(codec, slots, actions), *_targets(slots, actions, pose), *_openness(slots, actions)]
    seen = f"{len(actions)} actions through {codec.name}"
    return broken(SLOT_UNITS, "; ".join(wrong), seen, _FIX) if wrong else holds(SLOT_UNITS, "in SI units", seen)


def _velocities(codec: Codec, slots: np.ndarray, actions: np.ndarray) -> Iterator[str]:
    for group, name, columns, per_unit, gain in (
            (VELOCITY, "velocity", slice(0, 3), POSITION_M_PER_UNIT, "velocity_gain"),
            (ANGULAR_VELOCITY, "angular velocity", slice(3, 6), ROTATION_RAD_PER_UNIT, "angular_velocity_gain")):
        if slots[:, group].any():
            wanted = actions[:, columns] * per_unit * codec.control_hz * getattr(codec, gain, 1.0)
            yield from _scaled(f"{name} slots", slots[:, group], wanted)


def _targets(slots: np.ndarray, actions: np.ndarray, pose: np.ndarray) -> Iterator[str]:
    """Check that pose slots hold a pose: the one before the action, moved by the action."""
    position, rotation = slots[:, POSITION], slots[:, ROTATION_6D]
    delta, turn = actions[:, 0:3] * POSITION_M_PER_UNIT, actions[:, 3:6] * ROTATION_RAD_PER_UNIT
    if position.any():
        if _is_multiple(position, delta):
            yield "deltas are in the slots of absolute positions"
        else:
            yield from _scaled("position slots", position, pose[:, 0:3] + delta)
    if rotation.any():
        turned = rotations.columns(rotations.matrix(turn) @ rotations.matrix(pose[:, 3:6]))
        if np.allclose(rotation, rotations.rotation_6d(turn), atol=0.05):
            yield "rotation deltas are in the slots of absolute rotations"
        elif not np.allclose(rotation, turned, atol=1e-3):
            yield "rotation slots do not hold the pose rotated about the base's axes"


def _is_multiple(held: np.ndarray, wanted: np.ndarray) -> bool:
    factor = float((held * wanted).sum() / (wanted**2).sum())
    return bool(np.allclose(held, factor * wanted, rtol=1e-2, atol=1e-3 * abs(factor) + 1e-9))


def _openness(slots: np.ndarray, actions: np.ndarray) -> Iterator[str]:
    held, wanted = slots[:, GRIPPER_OPEN][:, 0], (1 - actions[:, 6]) / 2
    if np.ptp(held) < 1e-3:
        yield f"the gripper's slot is a constant {held[0]:.2g}, perhaps a mean"
    elif np.allclose(held, 1 - wanted, atol=1e-3):
        yield "the gripper's slot is inverted: 1 is closed"
    elif not np.allclose(held, wanted, atol=1e-3):
        yield "the gripper's slot is not 0 for closed and 1 for open"


def _scaled(what: str, held: np.ndarray, wanted: np.ndarray) -> Iterator[str]:
    if np.allclose(held, wanted, rtol=1e-3, atol=1e-3):
        return
    factor = float((held * wanted).sum() / (wanted**2).sum())
    if _is_multiple(held, wanted):
        yield f"{what} are in centimetres" if abs(factor - 100) < 1 else f"{what} are {factor:.3g} times as large"
    else:
        yield f"{what} hold other values"


def _states(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return recorded joints, fingers, positions and rotations, and one state that every representation writes
    differently."""
    recorded = (np.concatenate([getattr(e, name) for e in episodes])[:_STEPS] for name in (
        "joint_rad_T7", "finger_m_T2", "position_m_T3", "axis_angle_rad_T3"))
    telling = ([0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7], [0.03, -0.02], [0.1, 0.2, 0.9], [0.3, -0.5, 1.1])
    joints, fingers, position, rotation = (np.vstack(pair) for pair in zip(recorded, telling, strict=True))
    return joints, fingers, position, rotation


def _state(codec: Codec, states: tuple[np.ndarray, ...]) -> Finding:
    joints, fingers, position, rotation = states
    slots = codec.encode_state(joints, fingers, position, rotation).astype(np.float64)
    wrong = [*_scaled("joint slots", slots[:, JOINTS], joints),
             *_scaled("position slots", slots[:, POSITION], position),
             *_state_rotation(slots[:, ROTATION_6D], rotation), *_state_gripper(slots[:, GRIPPER_OPEN], fingers)]
    seen = f"{len(slots)} states through {codec.name}"
    return broken(STATE, "; ".join(wrong), seen, _FIX) if wrong else holds(STATE, "in SI units", seen)


def _state_rotation(held: np.ndarray, rotation: np.ndarray) -> Iterator[str]:
    if np.allclose(held, rotations.rotation_6d(rotation), atol=1e-3):
        return
    known = {"the rotation is read as Euler angles": rotations.columns(rotations.from_euler(rotation)),
             "the rotation is read in degrees": rotations.rotation_6d(np.deg2rad(rotation)),
             "the rotation is the inverse one": rotations.rotation_6d(-rotation),
             "the rotation slots hold rows of the matrix, not columns":
                 rotations.matrix(rotation)[:, :2].reshape(-1, 6)}
    yield next((name for name, columns in known.items() if np.allclose(held, columns, atol=1e-3)),
               "the rotation slots hold other values")


def _state_gripper(held: np.ndarray, fingers: np.ndarray) -> Iterator[str]:
    width = (fingers[:, 0:1] - fingers[:, 1:2]) / GRIPPER_WIDTH_OPEN_M
    if np.allclose(held, width, atol=1e-3):
        return
    known = {"the gripper is the mean of both fingers, which is always about 0": fingers.mean(1, keepdims=True),
             "the gripper is one finger's position in metres, not the width": fingers[:, 0:1],
             "the gripper is one finger, not the width": fingers[:, 0:1] / GRIPPER_WIDTH_OPEN_M * 2,
             "the gripper is in metres": width * GRIPPER_WIDTH_OPEN_M,
             "the gripper is inverted: 1 is closed": 1 - width}
    yield next((name for name, values in known.items() if np.allclose(held, values, atol=1e-3)),
               "the gripper's slot holds another value")


def _masks(codec: Codec, actions_TA: np.ndarray, states_TA: np.ndarray) -> Finding:
    wrong: list[str] = []
    counts = []
    for kind, slots_TA, mask in (("action", actions_TA, codec.action_mask), ("state", states_TA, codec.state_mask)):
        filled = np.any(slots_TA, axis=0)
        wrong += _mask(kind, filled, mask)
        counts.append(f"{kind}: {filled.sum()} slots filled, {mask.sum()} in the mask")
    return broken(MASKS, "; ".join(wrong), "; ".join(counts), _FIX) if wrong else \
        holds(MASKS, "exactly those", "; ".join(counts))


def _mask(kind: str, filled: np.ndarray, mask: np.ndarray) -> Iterator[str]:
    left_out, empty = np.flatnonzero(filled & ~mask), np.flatnonzero(mask & ~filled)
    if mask.all():
        yield f"the {kind}'s mask is all ones"
    elif len(empty):
        yield f"the {kind}'s mask names slots that are never filled: {slot_name(int(empty[0]))} is the first"
    if len(left_out):
        yield f"the {kind}'s mask lacks slots that are filled: {slot_name(int(left_out[0]))} is the first"
