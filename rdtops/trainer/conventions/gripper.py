"""Gripper checks: its command against its fingers, and both fingers against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdtops.trainer.conventions.finding import Finding, broken, doubtful, holds, unknown
from rdtops.trainer.data.actions import GRIPPER_WIDTH_OPEN_M, Codec
from rdtops.trainer.data.libero import Episode

SIGN, RANGE, FINGERS = "the gripper opens at -1 and closes at +1", "the gripper's action is -1 or +1", \
    "gripper_states holds both fingers, (+x, -x) in m"
_MOVED_M = 0.005
_HELD_STEPS = 10  # after so many steps the fingers have arrived, or hold an object


def findings(episodes: Sequence[Episode], codec: Codec) -> list[Finding]:
    """Check the actions after encoding and decoding."""
    fingers = _fingers(episodes)
    return [_range(episodes), fingers, *([] if fingers.remedy else [_sign(episodes, codec)])]


def _range(episodes: Sequence[Episode]) -> Finding:
    commands = np.concatenate([e.actions_T7[:, 6] for e in episodes])
    full = float((np.abs(commands) > 0.9).mean())
    seen = f"from {commands.min():g} to {commands.max():g}, {100 * full:.0f} % beyond 0.9"
    if commands.min() >= 0 and commands.max() > 0.9 and (commands < 0.1).any():
        return doubtful(RANGE, "the gripper's action goes from 0 to 1", seen, "write actions[:, 6] as 2 * x - 1")
    if full < 0.5:
        return doubtful(RANGE, "the gripper's action is mostly neither -1 nor +1: averaged or rescaled", seen,
                      "write actions[:, 6] as the controller expects it, -1 or +1")
    return holds(RANGE, "as the controller expects it", seen)


def _fingers(episodes: Sequence[Episode]) -> Finding:
    fingers = np.concatenate([e.finger_m_T2 for e in episodes]).astype(np.float64)
    sum_m, width_m = np.abs(fingers.sum(1)), fingers[:, 0] - fingers[:, 1]
    seen = f"width from {width_m.min():.4f} to {width_m.max():.4f} m, sum up to {sum_m.max():.4f} m"
    remedy = "rewrite obs/gripper_states from the simulator's robot0_gripper_qpos"
    if np.abs(width_m).max() > 1.3 * GRIPPER_WIDTH_OPEN_M:
        say = broken if np.abs(width_m).max() > 10 * GRIPPER_WIDTH_OPEN_M else doubtful
        return say(FINGERS, "the fingers are not in metres", seen, remedy)
    if np.abs(fingers).max() > _MOVED_M and np.allclose(fingers[:, 0], fingers[:, 1], atol=1e-6):
        return broken(FINGERS, "both columns are the same: one finger, or the width, written twice", seen, remedy)
    if width_m.min() < -_MOVED_M:
        return doubtful(FINGERS, "the fingers are swapped, (-x, +x)", seen, remedy)
    if _changes(episodes) and np.ptp(width_m) < _MOVED_M / 5:
        say = broken if np.ptp(width_m) == 0 else doubtful  # a simulated finger is never exactly still
        return say(FINGERS, "the fingers never move while the command changes: their mean, or a constant", seen, remedy)
    if width_m.max() < _MOVED_M:
        return unknown(FINGERS, "the gripper is never open", seen)
    return holds(FINGERS, "two fingers, opposite", seen)


def _changes(episodes: Sequence[Episode]) -> bool:
    """Tell whether one episode opens and closes the gripper, each long enough to be visible."""
    return any(min((e.actions_T7[:, 6] > 0).sum(), (e.actions_T7[:, 6] < 0).sum()) > _HELD_STEPS for e in episodes)


def _sign(episodes: Sequence[Episode], codec: Codec) -> Finding:
    with_it_m = against_m = 0.0
    for e in episodes:
        command = _commands(e, codec)
        moved = -np.diff(e.finger_m_T2[:, 0] - e.finger_m_T2[:, 1])[:len(command)] * np.sign(command)
        with_it_m += float(moved.clip(min=0).sum())
        against_m += float(-moved.clip(max=0).sum())
    seen = f"the fingers moved {1000 * with_it_m:.0f} mm as commanded and {1000 * against_m:.0f} mm the opposite way"
    if max(with_it_m, against_m) < _MOVED_M:
        return _at_rest(episodes, codec)
    if against_m > 3 * with_it_m:
        return doubtful(SIGN, "the gripper's sign is inverted", seen,
                        "change the sign of actions[:, 6], or the codec's")
    if with_it_m > 3 * against_m:
        return holds(SIGN, "the fingers follow the command", seen)
    return unknown(SIGN, "the fingers move both ways", seen)


def _at_rest(episodes: Sequence[Episode], codec: Codec) -> Finding:
    """Check fingers that never move: they are where they were commanded to be, or hold an object."""
    at, told = [], []
    for e in episodes:
        command = _commands(e, codec)[_HELD_STEPS:]
        at += list((e.finger_m_T2[:, 0] - e.finger_m_T2[:, 1])[_HELD_STEPS:len(command) + _HELD_STEPS])
        told += list(command)
    open_share = float(np.mean(at)) / GRIPPER_WIDTH_OPEN_M if at else 0.5
    seen = f"the fingers are {100 * open_share:.0f} % open, the command is {np.mean(told) if told else 0:+.1f}"
    if not told or abs(np.mean(told)) < 0.5 or 0.1 < open_share < 0.8:
        return unknown(SIGN, "the fingers do not move", seen)
    if (np.mean(told) < 0) == (open_share > 0.5):
        return holds(SIGN, "the fingers are where the command puts them", seen)
    return doubtful(SIGN, "the gripper's sign is inverted", seen,
                        "change the sign of actions[:, 6], or the codec's")


def _commands(episode: Episode, codec: Codec) -> np.ndarray:
    """Return the command that leads from each observation to the next: (T - 1,)."""
    actions, pose = episode.actions_T7[episode.lead:], episode.pose_T6[:episode.starts]
    return codec.decode_actions(codec.encode_actions(actions, pose), pose)[:len(episode.finger_m_T2) - 1, 6]
