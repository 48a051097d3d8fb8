"""Image checks: upright, not mirrored, of the camera they are named after, in RGB, one for each step.

LIBERO's agentview camera stands in front of the robot and looks at it, slightly from above: when the gripper moves
along the base's +y, the motion in the image goes right; when it comes nearer (+x), down. The wrist camera moves with
the hand: nearly everything changes with each step, except the fingers at the image's lower edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rdtops.trainer.conventions import panda
from rdtops.trainer.conventions.finding import Finding, Verdict, doubtful, holds, unknown
from rdtops.trainer.data.declaration import FLIPS
from rdtops.trainer.data.libero import Episode, Frames

UPRIGHT, WRIST_UPRIGHT, MIRRORED = "agentview is upright", "the wrist's image is upright", "agentview is not mirrored"
CAMERAS, COLOURS, FRESH = "each camera's images are under its name", "colours are red, green, blue", \
    "every step has images of its own"
_CHANGED = 30  # of 765: the sum over the three colours
_FEW_PIXELS = 0.002  # of an image; less is noise
_MOVED_M = 0.002  # between two frames
_TINT = 6.0  # mean red minus mean blue; every scene of LIBERO has 12 to 50
_OTHERWISE = "--set images="  # the value follows from all findings of an image
_ONE_CAMERA = "rewrite the images of this camera as those of the other: --set images= turns both"
_TRAVEL_M = 0.03  # of the gripper, so that an image shows its direction


class _Seen(NamedTuple):
    """What the images show: N pairs of consecutive frames, C = 2 cameras, S pixels of an edge."""

    change_NCSS: np.ndarray  # bool: which pixels changed
    place_N3: np.ndarray  # the gripper between both, m
    moved_N: np.ndarray  # m
    tint_C: np.ndarray
    still_CS: np.ndarray  # share of pixels of a row that do not change with the arm in motion


def findings(episodes: Sequence[Episode], frames: Frames, pairs: int) -> list[Finding]:
    """Check `pairs` pairs of frames, spread over each episode."""
    seen, stored = _look(episodes, frames, pairs), frames.dataset.images[episodes[0].file]
    fresh = _fresh(seen)
    if fresh.remedy:
        return [fresh]
    cameras = _cameras(seen)
    wrong = bool(cameras.remedy)  # then neither image is of the camera that the other checks assume
    return [fresh, cameras, _colours(seen), *([] if wrong else _oriented(seen, stored))]


def _look(episodes: Sequence[Episode], frames: Frames, pairs: int) -> _Seen:
    change, places, moved, tints = [], [], [], []
    for e in episodes:
        place = panda.gripper_pose(e.joint_rad_T7)[0]
        steps = np.unique(np.linspace(0, len(place) - 2, min(pairs, len(place) - 1)).astype(int))
        for t in steps:
            pair = np.stack([frames.read(e, int(step)) for step in (t, t + 1)]).astype(np.int16)
            change.append(np.abs(pair[1] - pair[0]).sum(-1) > _CHANGED)
            places.append((place[t] + place[t + 1]) / 2)
            moved.append(np.linalg.norm(place[t + 1] - place[t]))
            tints.append(pair[0, ..., 0].mean((1, 2)) - pair[0, ..., 2].mean((1, 2)))
    moving = np.array(moved) > _MOVED_M
    changes = np.stack(change)
    still = 1 - (changes[moving] if moving.any() else changes).mean((0, 3))
    return _Seen(changes, np.stack(places), np.array(moved), np.mean(tints, axis=0), still)


def _fresh(seen: _Seen) -> Finding:
    moving = seen.moved_N > _MOVED_M
    if moving.sum() < 5:
        return unknown(FRESH, "the arm hardly moves")
    same = 1 - seen.change_NCSS[moving].any((2, 3)).mean(0)
    words = f"{100 * same[0]:.0f} % of agentview's and {100 * same[1]:.0f} % of the wrist's frames equal the one before"
    if (same > 0.95).any():
        return doubtful(FRESH, "images are frozen: the same in every step while the arm moves", words,
                      "rewrite the images from one playback")
    if (same > 0.2).any():
        return doubtful(FRESH, "history is repeated: frames equal the one before while the arm moves", words,
                      "rewrite the images, one for each step, or fix the code that reads them")
    return holds(FRESH, "each frame differs from the one before", words)


def _cameras(seen: _Seen) -> Finding:
    moving = seen.moved_N > _MOVED_M
    if moving.sum() < 5:
        return unknown(CAMERAS, "the arm hardly moves")
    agent, wrist = seen.change_NCSS[moving].mean((0, 2, 3))
    words = f"{100 * agent:.1f} % of agentview's pixels change in a step, {100 * wrist:.1f} % of the wrist's"
    if agent > 1.3 * wrist:
        return doubtful(CAMERAS, "the two cameras are swapped", words,
                      "swap obs/agentview_rgb and obs/eye_in_hand_rgb")
    if wrist > 1.3 * agent:
        return holds(CAMERAS, "the wrist's image changes more", words)
    return unknown(CAMERAS, "both change about equally", words)


def _colours(seen: _Seen) -> Finding:
    words = f"red minus blue is {seen.tint_C[0]:+.0f} in agentview and {seen.tint_C[1]:+.0f} in the wrist's image"
    if (seen.tint_C < -_TINT).all():
        return doubtful(COLOURS, "red and blue are swapped (BGR)", words, "store the images as RGB")
    if (seen.tint_C > _TINT).all():
        return holds(COLOURS, "as warm as LIBERO's scenes", words)
    return unknown(COLOURS, "the scene is neither warm nor cold", words)


def _oriented(seen: _Seen, stored: str) -> list[Finding]:
    """Check whether images are upright and not mirrored. The remedy undoes both, from how they were read."""
    found = [_upright(seen), _mirrored(seen), _wrist(seen)]
    wrong = {f.convention for f in found if f.verdict is Verdict.BROKEN}
    if {found[0].verdict, found[2].verdict} == {Verdict.BROKEN, Verdict.HOLDS}:
        return [replace(f, remedy=_ONE_CAMERA) if f.convention in wrong else f for f in found]
    rows, columns = FLIPS[stored]
    flips = (rows != bool(wrong & {UPRIGHT, WRIST_UPRIGHT}), columns != (MIRRORED in wrong))
    remedy = f"--set images={next(name for name, other in FLIPS.items() if other == flips)}"
    return [replace(f, remedy=remedy) if f.convention in wrong else f for f in found]


def _upright(seen: _Seen) -> Finding:
    """Check two signs: the arm enters from above, and moves down when it comes nearer. Both must agree."""
    row, _, place = _centres(seen)
    if len(row) < 8 or np.ptp(place[:, 0]) < _TRAVEL_M:
        return unknown(UPRIGHT, "the gripper hardly comes nearer or goes away")
    nearer = float(np.corrcoef(row, place[:, 0])[0, 1])
    words = (f"motion is centred at {100 * row.mean():.0f} % of the height; with the gripper's x it correlates "
             f"{nearer:+.2f}")
    if nearer > 0.3 and row.mean() < 0.5:
        return holds(UPRIGHT, "the arm comes from above", words)
    if nearer < -0.3 and row.mean() > 0.5:
        return doubtful(UPRIGHT, "agentview is upside down", words, _OTHERWISE)
    return unknown(UPRIGHT, "the motion in the image does not show it", words)


def _mirrored(seen: _Seen) -> Finding:
    _, column, place = _centres(seen)
    if len(column) < 8 or np.ptp(place[:, 1]) < _TRAVEL_M:
        return unknown(MIRRORED, "the gripper hardly moves sideways")
    sideways = float(np.corrcoef(column, place[:, 1])[0, 1])
    words = f"the place of motion in the image correlates {sideways:+.2f} with the gripper's y"
    if sideways > 0.6:
        return holds(MIRRORED, "the robot's left is the image's right", words)
    if sideways < -0.6:
        return doubtful(MIRRORED, "agentview is mirrored, left for right", words, _OTHERWISE)
    return unknown(MIRRORED, "the motion in the image does not show it", words)


def _wrist(seen: _Seen) -> Finding:
    quarter = seen.still_CS.shape[1] // 8
    upper, lower = (float(seen.still_CS[1][rows].mean()) for rows in (slice(0, quarter), slice(-quarter, None)))
    words = (f"{100 * upper:.1f} % of the upper edge's pixels do not change in a step, {100 * lower:.1f} % of the "
             "lower's")
    if (seen.moved_N > _MOVED_M).sum() < 5 or abs(upper - lower) < 0.01:
        return unknown(WRIST_UPRIGHT, "both edges change alike", words)
    if upper > lower:
        return doubtful(WRIST_UPRIGHT, "the wrist's image is upside down", words, _OTHERWISE)
    return holds(WRIST_UPRIGHT, "the fingers are at the lower edge", words)


def _centres(seen: _Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row and column of what changes in agentview, as shares of the edge, and where the gripper was."""
    change = seen.change_NCSS[:, 0]
    told = change.mean((1, 2)) > _FEW_PIXELS
    change, edge = change[told], change.shape[-1]
    count = change.sum((1, 2))
    row, column = ((change.sum(axis) * np.arange(edge)).sum(1) / count / edge for axis in (2, 1))
    return row, column, seen.place_N3[told]
