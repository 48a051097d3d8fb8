"""Motion checks: the actions against the motion that follows them.

LIBERO's controller makes the arm follow a delta with a lag. A nominal arm, `v' = 0.57 v + 0.11 u` for both positions
and rotations (fitted to recordings in free space; it settles at a quarter of the command), plays the actions;
least squares then give how the real arm's motion follows the nominal one's: ones on the diagonal when all
conventions hold. The motion is computed from the joints, so that a wrong pose does not affect this check. An axis that
is hardly commanded, or always together with another, gives no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rdtops.trainer.conventions import panda
from rdtops.trainer.conventions.finding import Finding, doubtful, holds, unknown
from rdtops.trainer.data import rotations
from rdtops.trainer.data.actions import POSITION_M_PER_UNIT, ROTATION_RAD_PER_UNIT, Codec
from rdtops.trainer.data.libero import Episode

AXES = {"position": "position deltas follow the base's axes", "rotation": "rotation deltas follow the base's axes"}
SCALE = {"position": "a unit of position is 0.05 m", "rotation": "a unit of rotation is 0.5 rad"}
FRAME, TIMING = "rotation deltas turn about the base's axes", "an action is followed by its own motion"
_KEEPS, _TAKES = 0.57, 0.11
_EXCITED = {"position": 0.0015, "rotation": 0.002}  # m and rad a step, root mean square of the nominal motion
_CERTAIN = 6.0  # standard errors
_CORRELATED_STEPS = 6  # errors are correlated over so many steps, so there are so many times fewer independent ones
_TOGETHER = 10.0  # variance inflation: motion along two axes at once says nothing about either
_DOMINANT = 2.0  # the strongest response against the next
_NAMES = "xyz"
_SCALES = {  # how much further the arm moves than nominal -> what was done to the numbers
    "position": {20.0: "in metres: they were multiplied by the controller's 0.05", 400.0: "multiplied by 0.05 twice",
                 100.0: "divided by 100: metres instead of centimetres",
                 0.01: "multiplied by 100: centimetres instead of metres",
                 2.0: "half of what they should be", 0.05: "normalised twice: divided by 0.05"},
    "rotation": {2.0: "in rad: they were multiplied by the controller's 0.5",
                 57.3: "converted from degrees to rad twice", 0.0175: "in degrees"},
}
_SETTLED = 5
_SHIFTS = (-2, -1, 0, 1, 2)


class _Steps(NamedTuple):
    """The N steps of all episodes."""

    position: np.ndarray  # (N, 3) m
    rotation: np.ndarray  # (N, 3) rad, about the base's axes
    rotation_hand: np.ndarray  # (N, 3) rad, about the hand's own axes
    position_nominal: np.ndarray
    rotation_nominal: np.ndarray


class _Response(NamedTuple):
    """The response of the arm. Row i, column j: how motion along j follows a command along i."""

    gain: np.ndarray  # (3, 3)
    certainty: np.ndarray  # (3, 3) in standard errors
    unexplained: float  # share of the motion


def findings(episodes: Sequence[Episode], codec: Codec) -> list[Finding]:
    """Check the actions after encoding and decoding."""
    steps = _steps(episodes, codec)
    return [*_group("position", steps.position, steps.position_nominal), *_rotation(steps),
            _timing(episodes, codec)]


def _steps(episodes: Sequence[Episode], codec: Codec, shift: int = 0) -> _Steps:
    return _Steps(*map(np.concatenate, zip(*(_of_episode(e, codec, shift) for e in episodes), strict=True)))


def _of_episode(episode: Episode, codec: Codec, shift: int) -> tuple[np.ndarray, ...]:
    """Drop the first steps, until the nominal arm has caught up, and the last ones: every shift is judged on the same
    steps."""
    actions = episode.actions_T7[episode.lead:]
    pose = episode.pose_T6[:len(actions)]
    actions = codec.decode_actions(codec.encode_actions(actions, pose), pose).astype(np.float64)
    place, turn = panda.gripper_pose(episode.joint_rad_T7)
    motion = np.diff(place, axis=0)
    rotation = rotations.axis_angle(turn[1:] @ turn[:-1].transpose(0, 2, 1))
    in_hand = rotations.axis_angle(turn[:-1].transpose(0, 2, 1) @ turn[1:])
    steps = range(_SETTLED, max(len(motion) - 2, _SETTLED))
    commanded = [t + shift for t in steps]
    return (motion[steps], rotation[steps], in_hand[steps],
            _nominal(actions[:, 0:3] * POSITION_M_PER_UNIT)[commanded],
            _nominal(actions[:, 3:6] * ROTATION_RAD_PER_UNIT)[commanded])


def _nominal(commands_T3: np.ndarray) -> np.ndarray:
    """Simulate the nominal arm from standstill. Motion before the first command has no effect after some steps."""
    moved, motion = np.zeros(3), np.zeros_like(commands_T3)
    for t, command in enumerate(commands_T3):
        motion[t] = moved = _KEEPS * moved + _TAKES * command
    return motion


def _response(motion: np.ndarray, nominal: np.ndarray) -> _Response:
    """Fit by least squares. A small ridge on the diagonal gives an axis without commands gain 0 and no certainty."""
    square = nominal.T @ nominal + 1e-9 * np.eye(3)
    gain = np.linalg.solve(square, nominal.T @ motion)
    rest = motion - nominal @ gain
    spread = np.sqrt(np.diag(np.linalg.inv(square))[:, None] * _rms(rest)**2 * _CORRELATED_STEPS) + 1e-12
    together = np.diag(np.linalg.inv(square)) * np.diag(square)  # 1: independent; large: follows another axis
    certainty = np.where(together[:, None] > _TOGETHER, 0, gain / spread)
    return _Response(gain, certainty, float((rest**2).sum() / max((motion**2).sum(), 1e-12)))


def _rotation(steps: _Steps) -> Iterator[Finding]:
    """Find the frame first: for a hand that points down, y and z have the opposite sign."""
    asked = _rms(steps.rotation_nominal)
    if (asked < _EXCITED["rotation"]).all():
        yield unknown(FRAME, "the actions hardly rotate the hand")
    elif (frame := _frame(steps)).remedy:
        yield frame
        return
    else:
        yield frame
    yield from _group("rotation", steps.rotation, steps.rotation_nominal)


def _frame(steps: _Steps) -> Finding:
    """Compare the frames without free gains, which would fit any motion of a hand that points down."""
    base = _unexplained_as_is(steps.rotation, steps.rotation_nominal)
    hand = _unexplained_as_is(steps.rotation_hand, steps.rotation_nominal)
    flipped = _response(steps.rotation, steps.rotation_nominal).unexplained
    seen = f"{100 * base:.0f} % of the motion unexplained in the base's frame, {100 * hand:.0f} % in the hand's"
    if hand < 0.5 and hand < 0.8 * min(base, flipped):
        return doubtful(FRAME, "rotation deltas are in the hand's frame", seen,
                      "rotate actions[:, 3:6] into the base's frame: R(ee_ori) @ delta")
    if base < 0.5 and base < 0.8 * hand:
        return holds(FRAME, "the base's frame explains the motion", seen)
    return unknown(FRAME, "both frames explain the motion about equally", seen)


def _unexplained_as_is(motion: np.ndarray, nominal: np.ndarray) -> float:
    gain = max(float((motion * nominal).sum() / max((nominal**2).sum(), 1e-12)), 0)
    return float(((motion - gain * nominal) ** 2).sum() / max((motion**2).sum(), 1e-12))


def _group(kind: str, motion: np.ndarray, nominal: np.ndarray) -> Iterator[Finding]:
    """Find along which axis each command moves the arm, and how far."""
    response = _response(motion, nominal)
    asked = _rms(nominal)
    decided, undecided = {}, []
    for axis in range(3):
        goes = _goes(response, axis) if _is_asked(asked[axis], response.gain[axis], kind) else None
        if goes is None:
            undecided.append(_NAMES[axis])
        else:
            decided[axis] = goes
    if not decided:
        yield unknown(AXES[kind], f"the actions hardly command {kind}, or several axes at once")
        yield unknown(SCALE[kind], f"the actions hardly command {kind}")
        return
    yield _axes(kind, response, decided, undecided)
    yield _scale(kind, [abs(response.gain[axis, to]) for axis, (to, _) in decided.items()])


def _is_asked(asked: float, gain_3: np.ndarray, kind: str) -> bool:
    """Tell whether an axis is commanded. Commands far too small for the arm's motion count: their scale is wrong."""
    return asked >= _EXCITED[kind] or asked * float(np.abs(gain_3).max()) >= _EXCITED[kind]


def _goes(response: _Response, axis: int) -> tuple[int, int] | None:
    """Return the axis along which the arm moves, and the sign; None when it is not clear."""
    gain = np.abs(response.gain[axis])
    to = int(np.argmax(gain))
    if abs(response.certainty[axis, to]) < _CERTAIN or gain[to] < _DOMINANT * np.sort(gain)[-2]:
        return None
    return to, int(np.sign(response.gain[axis, to]))


def _axes(kind: str, response: _Response, decided: dict[int, tuple[int, int]], undecided: list[str]) -> Finding:
    seen = ", ".join(f"{_NAMES[a]} moves {_NAMES[to]} by {response.gain[a, to]:+.2f} of the nominal"
                     for a, (to, _) in decided.items())
    seen += f"; cannot tell: {', '.join(undecided)}" if undecided else ""
    swapped = [f"{_NAMES[a]} as {_NAMES[to]}" for a, (to, _) in decided.items() if to != a]
    flipped = [_NAMES[a] for a, (to, sign) in decided.items() if to == a and sign < 0]
    columns = "actions[:, 0:3]" if kind == "position" else "actions[:, 3:6]"
    if swapped:
        return doubtful(AXES[kind], f"{kind} axes swapped: {', '.join(swapped)}", seen, f"reorder {columns}")
    if flipped:
        hand = "" if kind == "position" else " (or the deltas are in the hand's frame)"
        return doubtful(AXES[kind], f"{kind} axis {', '.join(flipped)} flipped{hand}", seen,
                      f"change the sign in {columns}, or the codec that does it")
    return holds(AXES[kind], f"checked for {', '.join(_NAMES[a] for a in decided)}", seen)


def _scale(kind: str, gains: list[float]) -> Finding:
    """Check the scale. Contact makes an arm slower than commanded, never faster: a slightly low gain is no finding."""
    gain = float(np.median(gains))
    seen = f"the arm moves {gain:.2f} of the nominal distance"
    if gain >= 1.5 or gain <= 0.12:
        nearest = min(_SCALES[kind], key=lambda factor: abs(np.log(factor / gain)))
        named = _SCALES[kind][nearest] if abs(np.log(nearest / gain)) < 0.5 else "of another scale"
        return doubtful(SCALE[kind], f"{kind} actions are {named}", seen,
                      "write the actions as the controller expects them, in [-1, 1]")
    if gain < 0.5:
        return unknown(SCALE[kind], "the arm moves less than commanded: contact, or smaller units", seen)
    return holds(SCALE[kind], "the nominal distance", seen)


def _timing(episodes: Sequence[Episode], codec: Codec) -> Finding:
    unexplained = {shift: _unexplained(_steps(episodes, codec, shift)) for shift in _SHIFTS}
    best, next_best = sorted(unexplained, key=lambda shift: unexplained[shift])[:2]
    seen = ", ".join(f"{100 * share:.0f} % ({shift:+d})" for shift, share in unexplained.items()) + " unexplained"
    if unexplained[best] > 0.5 or unexplained[next_best] < 1.2 * unexplained[best]:
        return unknown(TIMING, "the motion is too smooth to tell one step from the next", seen)
    if best:
        return doubtful(TIMING, f"off by {abs(best)}: motion is that of the action "
                      f"{'after' if best > 0 else 'before'} it", seen,
                      "find the moment of obs: --set observed=after or before; else shift the actions")
    return holds(TIMING, "no other step explains the motion as well", seen)


def _unexplained(steps: _Steps) -> float:
    """Return the unexplained share of positions and rotations, each relative to its spread; commanded axes only."""
    shares = [_response(motion, nominal).unexplained for kind, motion, nominal in (
        ("position", steps.position, steps.position_nominal), ("rotation", steps.rotation, steps.rotation_nominal))
        if (_rms(nominal) >= _EXCITED[kind]).any()]
    return float(np.mean(shares)) if shares else 1.0


def _rms(values_N3: np.ndarray) -> np.ndarray:
    """Return the root mean square of each column; 0 without rows."""
    return np.sqrt((values_N3**2).sum(0) / max(len(values_N3), 1))
