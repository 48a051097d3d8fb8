"""Rendered samples: single images of newly drawn scenes, with the object's position, to train a keypoint encoder.

Frames of demonstrations are poor teachers of it. They come a hundred from one scene, in most of them the hand is all
but there, and a network soon knows their pictures by heart. Here the hand moves over the table, and at every stop the
object is put at another place for one image: a new place, in a quarter of a second of a core. The simulator gives the
positions, which an encoder may use in training only.

Shapes: G samples, C cameras, S pixels of an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from proofs.closed_loop.pool import shared_out
from proofs.closed_loop.scripted_experts import PutPuddingInTray, go
from rdtops.hostlib import files
from rdtops.trainer.simulation.simulator import Simulator, Task

OF_A_SCENE = 25  # samples, before the next scene is drawn
STEPS_BETWEEN = 4  # steps of the hand between samples
NEAR = 0.6  # share of the samples with the object near the hand
NEAR_M = np.array([0.1, 0.12])  # largest distance on either side
NEARER = (0.2, 1.0)
LOW = 0.6  # share of the hand's paths that end low over the object's region
HAND_M = PutPuddingInTray.ELSEWHERE_M  # corners of the hand's region otherwise
LOW_M, HIGH_M = 0.01, 0.15  # above the object
ASIDE_M = 0.06  # of the object's region
ATTEMPTS = 20


@dataclass(frozen=True)
class RenderedSamples:
    frames_GCSS3: np.ndarray  # uint8, upright
    object_m_G3: np.ndarray
    hand_m_G3: np.ndarray
    object_in_image_GC2: np.ndarray  # as in Simulator.in_image_C2
    scene_G: np.ndarray  # number of the scene

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(file) as part, Path(part).open("wb") as out:
            np.savez(out, **vars(self))

    @staticmethod
    def load(file: Path) -> RenderedSamples:
        with np.load(file) as kept:
            return RenderedSamples(**kept)


@dataclass(frozen=True)
class Rendering:
    """The settings: a free body at any (x, y) between the corners, with a hand anywhere."""

    task: Task
    body: str
    corners_m: tuple[float, float, float, float]  # x, y to x, y
    count: int
    seed: int = 0


def taken(request: Rendering, processes: int = 1, say: Callable[[str], object] | None = None) -> RenderedSamples:
    """Render the samples. Each scene has its own seed: the result does not depend on the number of processes."""
    scenes = -(-request.count // OF_A_SCENE)
    made = []
    for scene in shared_out(partial(Renderer, request), Renderer.scene, range(scenes), processes):
        made.append(scene)
        if say and len(made) % 20 == 0:
            say(f"{len(made) * OF_A_SCENE} of {scenes * OF_A_SCENE} samples")
    return RenderedSamples(**{name: np.concatenate([getattr(scene, name) for scene in made])[:request.count]
                      for name in vars(made[0])})


class Renderer:
    def __init__(self, request: Rendering) -> None:
        self.request = request
        self.world = Simulator(request.task)

    def scene(self, number: int) -> RenderedSamples:
        random = np.random.default_rng((self.request.seed, number))
        seed = int(random.integers(2**31))
        self.world.begin(self.world.drawn(seed), seed)
        self.world.settle()
        above_m = self.world.body_m_3(self.request.body)[2]
        ways = self._wander(random, above_m)
        rows: list[tuple[np.ndarray, ...]] = []
        while len(rows) < OF_A_SCENE:
            if sample := self._sample(random):
                rows.append(sample)
            next(ways)
        frames, there, hands, spots = (np.stack(column) for column in zip(*rows, strict=True))
        return RenderedSamples(frames, there, hands, spots, np.full(OF_A_SCENE, number))

    def _wander(self, random: np.random.Generator, table_m: float) -> Iterator[None]:
        """Move the hand by some steps, at each call."""
        steps = 0
        while True:
            target_m = self._somewhere(random, table_m)
            for _ in go(self.world, target_m):
                steps += 1
                if steps % STEPS_BETWEEN == 0:
                    yield

    def _somewhere(self, random: np.random.Generator, table_m: float) -> np.ndarray:
        if random.random() > LOW:
            return random.uniform(*HAND_M)
        low, high = np.array(self.request.corners_m).reshape(2, 2)
        return np.array([*random.uniform(low - ASIDE_M, high + ASIDE_M), table_m + random.uniform(LOW_M, HIGH_M)])

    def _sample(self, random: np.random.Generator) -> tuple[np.ndarray, ...] | None:
        """Return a sample, None where the hand occupies every place tried for the object."""
        low, high = np.array(self.request.corners_m).reshape(2, 2)
        hand_m = self.world.robot().position_m_3
        near_m = NEAR_M * random.uniform(*NEARER)
        near_low, near_high = np.maximum(low, hand_m[:2] - near_m), np.minimum(high, hand_m[:2] + near_m)
        for _ in range(ATTEMPTS):
            near = random.random() < NEAR and (near_low < near_high).all()
            xy_m = random.uniform(near_low, near_high) if near else random.uniform(low, high)
            with self.world.displaced(self.request.body, xy_m) as touches:
                if not touches:
                    there_m = self.world.body_m_3(self.request.body)
                    return self.world.images(), there_m, hand_m, self.world.in_image_C2(there_m)
        return None
