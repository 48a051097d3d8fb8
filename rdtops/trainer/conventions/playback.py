"""Playback check: recorded actions, encoded and decoded, replayed in LIBERO's simulator from recorded initial states.

This is the evaluation of a model that predicts perfectly: the arm should move as recorded, and the task succeed.
Episodes are played in the world of the task's bddl file, the same that evaluation uses. LIBERO's own files come
from a world with other masses (see Simulator.model_xml), so the motion is compared with some tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import h5py
import numpy as np

from rdtops.errors import ConfigError
from rdtops.trainer.conventions.finding import Finding, doubtful, holds, unknown
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import Codec
from rdtops.trainer.simulation import simulator
from rdtops.trainer.simulation.simulator import Simulator

MOTION, SUCCESS = "played back in the simulator, the arm and the gripper move as recorded", \
    "played back in the simulator, the task succeeds"
EPISODES = 10  # episodes, of all files together; each takes some seconds
_OFF_M, _OFF_SHARE = 0.02, 0.3  # root mean square: another motion is beyond both, distance and share of the path
_FINGERS_OFF_M = 0.03  # mean difference of the gripper's width; it opens to 0.08
_FEW_SUCCEED = 0.5


class Played(NamedTuple):
    off_m: float  # root mean square distance of the gripper from where it was recorded
    path_m: float  # of the recorded gripper from where it began
    width_off_m: float  # mean difference of the gripper's width
    succeeded: bool
    was_success: bool  # by the file


def findings(folder: str | Path, episodes: Sequence[libero.Episode], codec: Codec) -> list[Finding]:
    """Play every given episode. A file of a task that the simulator lacks is an unknown finding.
    Raise SimulatorError when there is no simulator."""
    simulator.load(images=False)
    played: list[Played] = []
    strange: list[Finding] = []
    for file in dict.fromkeys(e.file for e in episodes):
        with h5py.File(Path(folder) / file, locking=False) as content:
            task = _task(content)
            if task is None:
                strange.append(unknown(MOTION, "the file does not name a task that this simulator has", file))
                continue
            world = Simulator(task, images=False)
            try:
                played += [play(world, e, content["data"][e.name], codec) for e in episodes if e.file == file]
            finally:
                world.close()
    return [*([_motion(played), _success(played)] if played else []), *strange]


def play(world: Simulator, episode: libero.Episode, demo: h5py.Group, codec: Codec) -> Played:
    """Play one episode. `demo`: the same episode in its file, for the simulator's state and its outcome."""
    world.begin(demo["states"][0], int(demo.attrs.get("seed", 0)), settled=True)
    before_T6 = np.concatenate([_pose(world)[None], episode.pose_T6])[:len(episode.actions_T7)] if episode.lead \
        else episode.pose_T6
    slots_TA = codec.encode_actions(episode.actions_T7, before_T6)
    opened = codec.decode_actions(slots_TA, before_T6)
    poses, widths, succeeded = [], [], False
    for t in range(len(slots_TA)):
        action = codec.decode_actions(slots_TA[t:t + 1], _pose(world)[None])[0] if codec.closed_loop else opened[t]
        succeeded = world.step(action) or succeeded
        fingers = world.robot().finger_m_2
        poses.append(_pose(world)[:3])
        widths.append(fingers[0] - fingers[1])
    first = 0 if episode.lead else 1  # the observation that follows action 0
    there, fingers = episode.position_m_T3[first:], episode.finger_m_T2[first:]
    off = np.array(poses)[:len(there)] - there
    width_off = np.array(widths)[:len(there)] - (fingers[:, 0] - fingers[:, 1])
    was_success = "rewards" not in demo or bool(np.any(demo["rewards"][()]))
    return Played(_rms(off), _rms(there - there[0]), float(np.abs(width_off).mean()), succeeded, was_success)


def _task(content: h5py.File) -> simulator.Task | None:
    """Return the task by the name of its bddl file, whose folder is the suite."""
    bddl = PurePosixPath(str(content["data"].attrs.get("bddl_file_name", "")))
    try:
        return next((t for t in simulator.tasks(bddl.parent.name) if t.name == bddl.stem), None)
    except ConfigError:
        return None


def _motion(played: Sequence[Played]) -> Finding:
    astray = [p for p in played if p.off_m > _OFF_M and p.off_m > _OFF_SHARE * p.path_m]
    fingers = [p for p in played if p.width_off_m > _FINGERS_OFF_M]
    seen = (f"{len(played)} episodes: the gripper is {_range(p.off_m for p in played)} mm from where it was recorded, "
            f"on paths of {_range(p.path_m for p in played)} mm; its width differs by "
            f"{_range(p.width_off_m for p in played)} mm")
    if len(astray) > len(played) / 2:
        return doubtful(MOTION, "the arm does not move as recorded", seen,
                        "see the findings above; if none is broken, the data are of another robot or controller")
    if len(fingers) > len(played) / 2:
        return doubtful(MOTION, "the gripper does not move as recorded", seen,
                        "see the gripper's sign above")
    return holds(MOTION, "as recorded", seen)


def _success(played: Sequence[Played]) -> Finding:
    meant = [p for p in played if p.was_success]
    done = sum(p.succeeded for p in meant)
    seen = f"{done} of {len(meant)} episodes that succeeded when recorded"
    if not meant:
        return unknown(SUCCESS, "no episode succeeded when it was recorded", seen)
    if done < _FEW_SUCCEED * len(meant):
        return doubtful(SUCCESS, "most episodes do not succeed", seen,
                        "a model that learns these data perfectly would fail as well: "
                        "see the findings above")
    return holds(SUCCESS, f"{done} of {len(meant)}", seen)


def _pose(world: Simulator) -> np.ndarray:
    robot = world.robot()
    return np.concatenate([robot.position_m_3, robot.axis_angle_rad_3])


def _range(values_m: Iterable[float]) -> str:
    every = sorted(1000 * v for v in values_m)
    return f"{every[0]:.1f} to {every[-1]:.1f}"


def _rms(off_T3: np.ndarray) -> float:
    return float(np.sqrt((off_T3.astype(np.float64) ** 2).sum(1).mean()))
