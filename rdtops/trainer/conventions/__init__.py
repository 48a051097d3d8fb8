"""Convention check: do the demonstrations and the codec follow the conventions that the training assumes?

`python -m rdtops.trainer.conventions DATASET` plays the recorded actions through the codec and a nominal arm, and
compares the images, the pose and the gripper with what the joints say. It reads and computes; it changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from rdtops.trainer.conventions import coding, gripper, instruction, motion, pose, sight
from rdtops.trainer.conventions.finding import Finding, Verdict, merged
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import Codec

__all__ = ["EPISODES", "NAMES", "Finding", "Verdict", "check"]
EPISODES = 100  # episodes that the commands check, at least one of each file: some seconds
_LOOKED_AT = 400  # pairs of frames, of all files together
NAMES = {  # conventions that a user may declare trusted: rdtops.contract.config has the same
    pose.POSITION: "pose_position", pose.ROTATION: "pose_rotation", pose.TIMING: "pose_timing",
    motion.AXES["position"]: "position_axes", motion.AXES["rotation"]: "rotation_axes",
    motion.SCALE["position"]: "position_scale", motion.SCALE["rotation"]: "rotation_scale",
    motion.FRAME: "rotation_frame", motion.TIMING: "action_timing",
    gripper.SIGN: "gripper_sign", gripper.RANGE: "gripper_range", gripper.FINGERS: "gripper_fingers",
    sight.UPRIGHT: "agentview_upright", sight.WRIST_UPRIGHT: "wrist_upright", sight.MIRRORED: "agentview_mirrored",
    sight.CAMERAS: "cameras", sight.COLOURS: "colours", sight.FRESH: "images_fresh",
    instruction.SENTENCE: "instruction",
}


def check(dataset: libero.Dataset, codec: Codec, frames: libero.Frames | None = None,
          trusted: Collection[str] = ()) -> list[Finding]:
    """Return a finding for every convention. Files are checked one by one, then their findings are merged.

    `trusted`: names of conventions that the user trusts. A doubtful finding of one of them becomes unknown; a certain
    one stays."""
    by_file: dict[str, list[libero.Episode]] = {}
    for episode in dataset.episodes:
        by_file.setdefault(episode.file, []).append(episode)
    frames = frames or libero.Frames(dataset)
    found = merged({file: _of_file(episodes, codec, frames, _LOOKED_AT // len(by_file))
                    for file, episodes in by_file.items()})
    return [_trusting(replace(f, name=NAMES.get(f.convention, "")), trusted) for f in found]


def _trusting(found: Finding, trusted: Collection[str]) -> Finding:
    if found.verdict is Verdict.BROKEN and not found.is_certain and found.name in trusted:
        return replace(found, verdict=Verdict.UNKNOWN, says=f"declared trusted, although: {found.says}")
    return found


def _of_file(episodes: list[libero.Episode], codec: Codec, frames: libero.Frames, pairs: int) -> list[Finding]:
    looked_at = episodes[:max(1, pairs // 30)]
    return [*pose.findings(episodes), *motion.findings(episodes, codec), *gripper.findings(episodes, codec),
            *coding.findings(episodes, codec), *sight.findings(looked_at, frames, min(max(pairs, 12), 30)),
            *instruction.findings(episodes)]
