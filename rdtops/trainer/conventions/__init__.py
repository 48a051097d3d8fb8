"""The convention check: do the demonstrations and the codec mean what the training takes them to mean?

`python -m rdtops.trainer.conventions DATASET` plays the recorded actions through the codec and a nominal arm, and
compares the images, the pose and the gripper with what the joints say. It reads and computes; it changes nothing.
"""

from __future__ import annotations

from rdtops.trainer import libero
from rdtops.trainer.actions import Codec
from rdtops.trainer.conventions import coding, gripper, motion, pose, sight, words
from rdtops.trainer.conventions.finding import Finding, Verdict, merged

__all__ = ["Finding", "Verdict", "check"]
_LOOKED_AT = 400  # pairs of frames in all files together: some seconds


def check(dataset: libero.Dataset, codec: Codec, frames: libero.Frames | None = None) -> list[Finding]:
    """Every convention with what is known of it; files are judged one by one and put together."""
    by_file: dict[str, list[libero.Episode]] = {}
    for episode in dataset.episodes:
        by_file.setdefault(episode.file, []).append(episode)
    frames = frames or libero.Frames(dataset)
    return merged({file: _of_file(episodes, codec, frames, _LOOKED_AT // len(by_file))
                   for file, episodes in by_file.items()})


def _of_file(episodes: list[libero.Episode], codec: Codec, frames: libero.Frames, pairs: int) -> list[Finding]:
    looked_at = episodes[:max(1, pairs // 30)]
    return [*pose.findings(episodes), *motion.findings(episodes, codec), *gripper.findings(episodes, codec),
            *coding.findings(episodes, codec), *sight.findings(looked_at, frames, min(max(pairs, 12), 30)),
            *words.findings(episodes)]
