"""Margins of the convention check: how far clean data stay from each alarm, and where planted faults are.

`python -m tests.trainer.conventions.margins [FOLDER ...]` prints the table of docs/training.md. Numbers are read off
the evidence, as a user would: of fixtures/teleoperated.hdf5, the lab's recording and every folder given; each episode
alone, neighbours, and all; both codecs; observations before and after. Images are looked at where there are any.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from rdtops.trainer.conventions import Finding, gripper, motion, pose, sight
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import Codec, codec
from tests.trainer.conftest import RECORDING
from tests.trainer.conventions import test_conventions as planted

CODECS = (codec("delta_velocity"), codec("absolute_pose"))


class Margin(NamedTuple):
    judged_by: str
    conventions: tuple[str, ...]
    value: Callable[[list[float]], float | None]  # of the numbers in the evidence
    alarm: str
    faults: tuple[str, ...]


def frames_ratio(numbers: list[float]) -> float | None:
    base, hand = numbers[:2]
    return hand / max(base, 0.5) if hand < 50 else None


def steps_ratio(numbers: list[float]) -> float | None:
    """Where another step than the recorded one explains the motion best."""
    share = dict(zip(numbers[1::2], numbers[0::2], strict=True))
    best, next_best = sorted(share, key=share.__getitem__)[:2]
    return share[next_best] / max(share[best], 0.5) if best and share[best] <= 50 else None


MARGINS = [
    Margin("pose: distance from where the joints put it, mm", (pose.POSITION,), lambda n: n[0],
           "above 1", ("centimetres", "position y flipped")),
    Margin("pose: angle from where the joints turn it, rad", (pose.ROTATION,), lambda n: n[0],
           "above 0.03", ("Euler", "degrees")),
    Margin("pose: the same, of its moment, mm", (pose.TIMING,), lambda n: n[0],
           "above 1, and another step leaves 0.3 of it", ("pose late",)),
    Margin("gain of the motion, positions", (motion.SCALE["position"],), lambda n: n[0],
           "above 1.5, below 0.12", ("metres",)),
    Margin("gain of the motion, rotations", (motion.SCALE["rotation"],), lambda n: n[0],
           "above 1.5, below 0.12", ("rad", "degrees twice")),
    Margin("unexplained in the hand's frame, against the base's, where below 50 %", (motion.FRAME,), frames_ratio,
           "below 0.8", ("hand's frame",)),
    Margin("unexplained at the next best step, against the best, where that is another", (motion.TIMING,), steps_ratio,
           "above 1.2", ("action late", "action early")),
    Margin("gripper: motion against the command, as a share of that with it", (gripper.SIGN,),
           lambda n: n[1] / max(n[0], 0.5), "above 3", ("gripper inverted",)),
    Margin("gripper: commands beyond 0.9, %", (gripper.RANGE,), lambda n: n[2],
           "below 50; or all from 0 to 1", ("gripper averaged",)),
    Margin("frames that equal the one before, %", (sight.FRESH,), max,
           "above 20, frozen above 95", ("history repeated", "frozen")),
    Margin("agentview's change against the wrist's", (sight.CAMERAS,), lambda n: n[0] / n[1],
           "above 1.3", ("cameras swapped",)),
    Margin("red minus blue, the warmer camera", (sight.COLOURS,), max, "below -6", ("BGR",)),
    Margin("agentview: height of what moves, %", (sight.UPRIGHT,), lambda n: n[0],
           "above 50, and it rises as the gripper comes nearer", ("agentview flipped",)),
    Margin("agentview: correlation with the gripper's y", (sight.MIRRORED,), lambda n: n[0],
           "below -0.6", ("mirrored",)),
    Margin("wrist: what stays at the lower edge less that at the upper, %", (sight.WRIST_UPRIGHT,),
           lambda n: n[1] - n[0], "below -1", ("flipped",)),
]


def main(folders: list[str]) -> None:
    folders = [str(RECORDING), *folders]
    clean = [*of_numbers(folders), *of_images(folders)]
    wrong = {name: list(findings) for name, findings in [*faults_in_numbers(), *faults_in_images()]}
    for m in MARGINS:
        faults = "; ".join(f"{name}: {span(values(m, wrong[name]))}" for name in m.faults)
        sys.stdout.write(f"| {m.judged_by} | {span(values(m, clean))} | {m.alarm} | {faults} |\n")
    astray = max((c for group, using in clean_groups(folders) for c in astray_certainty(group, using)), default=0.0)
    faulty = min(max(astray_certainty(planted.motions(f[1]), CODECS[0])) for f in planted.DATA_FAULTS
                 if f[0] in ("action x flipped", "actions reordered"))
    sys.stdout.write(f"| an axis that goes backwards or elsewhere, standard errors | {astray:.3g} at most | above 6 | "
                     f"flipped, reordered: {faulty:.3g} |\n")


def clean_groups(folders: Iterable[str]) -> Iterator[tuple[list[libero.Episode], Codec]]:
    sources = [planted.teleoperated(), *(list(libero.index(folder).episodes) for folder in folders)]
    for recorded, using in itertools.product(sources, CODECS):
        for as_observed in (lambda e: e, planted.observed_before):
            episodes = [as_observed(e) for e in recorded]
            yield from ((episodes[i:i + many], using) for many in {1, 2, len(episodes)}
                        for i in range(len(episodes) - many + 1))


def of_numbers(folders: Iterable[str]) -> Iterator[Finding]:
    for group, using in clean_groups(folders):
        yield from planted.of_numbers(group, using)


def of_images(folders: Iterable[str]) -> Iterator[Finding]:
    for folder in folders:
        dataset = libero.index(folder)
        frames = libero.Frames(dataset)
        if frames.read(dataset.episodes[0], 0).any():
            yield from sight.findings(dataset.episodes, frames, 30)


def faults_in_numbers() -> Iterator[tuple[str, Iterable[Finding]]]:
    for name, change, *_ in planted.DATA_FAULTS:
        yield name, planted.of_numbers(planted.motions(change))


def faults_in_images() -> Iterator[tuple[str, Iterable[Finding]]]:
    dataset = libero.index(RECORDING)
    for name, change, when, _ in planted.SIGHT_FAULTS:
        frames = planted.Pictures(dataset, change or (lambda f: f), when or (lambda step: step))
        yield name, sight.findings(dataset.episodes, frames, 30)


def values(margin: Margin, findings: Iterable[Finding]) -> list[float]:
    found = (margin.value(numbers) for f in findings
             if f.convention in margin.conventions and not _tells_other_numbers(f)
             if (numbers := [float(x) for x in re.findall(r"[-+]?\d+(?:\.\d+)?", f.evidence)]))
    return [value for value in found if value is not None]


def _tells_other_numbers(found: Finding) -> bool:
    return found.evidence.startswith("the fingers are") or "hardly moves" in found.says


def span(values: list[float]) -> str:
    if not values:
        return "none"
    low, high = min(values), max(values)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def astray_certainty(episodes: list[libero.Episode], using: Codec) -> Iterator[float]:
    steps = motion._steps(episodes, using)
    for moved, nominal, kind in ((steps.position, steps.position_nominal, "position"),
                                 (steps.rotation, steps.rotation_nominal, "rotation")):
        response = motion._response(moved, nominal)
        for axis, asked in enumerate(motion._rms(nominal)):
            gain = np.abs(response.gain[axis])
            to = int(np.argmax(gain))
            goes_astray = to != axis or response.gain[axis, to] < 0
            if goes_astray and motion._is_asked(asked, gain, kind) and gain[to] >= motion._DOMINANT * np.sort(gain)[-2]:
                yield abs(float(response.certainty[axis, to]))


if __name__ == "__main__":
    main(sys.argv[1:])
