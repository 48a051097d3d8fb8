"""Train the keypoint encoder of a small policy: rendered samples teach it where an object is.

The trainer keeps its vision encoder frozen, and with `vision_cache_gib` it sees every frame once; so an encoder that is
taught beforehand costs a policy's training nothing. Each camera teaches its own tower two things: its first map is to
be high where the object is in the image, and its answer is to be where the object is in the world; seen from outside,
the place, from the wrist, the way there from the hand. The answers alone would do, and take four times as long: as long
as the maps are high everywhere, nothing tells them where to look.

Shapes: G samples, B of a batch, C cameras, R pixels of an edge as the encoder sees it, M of a map's.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from proofs.closed_loop.keypoint_encoder import CONFIG, KeypointEncoder
from proofs.closed_loop.rendered_samples import RenderedSamples
from rdtops.errors import DataError
from rdtops.trainer.data import libero
from rdtops.trainer.model import encoders

log = logging.getLogger(__name__)
HELD_OUT = 8  # one scene of so many judges what was learnt
BATCH = 32
LEARNING_RATE = 1e-2
M_PER_UNIT = 0.05  # of what the towers say: numbers around 1
SPOT = 0.07  # standard deviation of where the first map is to be high, in halves of the image's edge
SPOT_WEIGHT = 0.1


class Lesson(NamedTuple):
    frames_GC3RR: torch.Tensor  # uint8
    answers_GC3: torch.Tensor  # in M_PER_UNIT around the mean
    in_image_GC2: torch.Tensor  # where the object is; NaN where a camera does not see it

    def of(self, numbers: np.ndarray) -> Lesson:
        return Lesson(*(column[numbers] for column in self))


def teach(samples: RenderedSamples, out: Path, steps: int, seed: int = 0) -> dict[str, float]:
    """Write the encoder into `out`. Return for each camera how far off its tower is, in m along the table: the mean
    over what it sees in scenes that taught nothing. Raises DataError when there is no scene to spare."""
    scenes = np.unique(samples.scene_G)
    judging_G = np.isin(samples.scene_G, scenes[min(HELD_OUT, len(scenes)) - 1::HELD_OUT])
    if judging_G.all():
        raise DataError("a keypoint encoder needs samples of two scenes at least: one to train on, one to judge by")
    torch.manual_seed(seed)
    encoder = KeypointEncoder(CONFIG)
    every = lesson(samples, encoder.edge)
    _learn(encoder, every.of(np.flatnonzero(~judging_G)), steps, seed)
    encoder.save_pretrained(out)
    return _errors_m(encoder, every.of(np.flatnonzero(judging_G)))


def lesson(samples: RenderedSamples, edge: int) -> Lesson:
    frames = encoders.resized(torch.from_numpy(samples.frames_GCSS3).flatten(0, 1), edge)
    asked_m_GC3 = np.stack([samples.object_m_G3, samples.object_m_G3 - samples.hand_m_G3], axis=1)
    spots_GC2 = torch.from_numpy(samples.object_in_image_GC2).float()
    spots_GC2[(spots_GC2.abs() > 1).any(-1)] = torch.nan
    return Lesson(frames.unflatten(0, (-1, len(libero.CAMERAS))),
                  torch.from_numpy((asked_m_GC3 - asked_m_GC3.mean(0)) / M_PER_UNIT).float(), spots_GC2)


def _learn(encoder: KeypointEncoder, every: Lesson, steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        loss = _loss(encoder, every.of(random.choice(len(every.answers_GC3), BATCH)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            log.info("keypoint encoder: step %d of %d, loss %.4f", step + 1, steps, loss.detach())


def _loss(encoder: KeypointEncoder, some: Lesson) -> torch.Tensor:
    images_BC3RR = encoders.normalised(some.frames_GC3RR)
    losses = []
    for camera, tower in enumerate(encoder.towers):
        maps_BKMM = tower.look(images_BC3RR[:, camera])
        _, place_B3 = tower.read(maps_BKMM)
        spots_B2 = some.in_image_GC2[:, camera]
        seen_B = ~spots_B2.isnan().any(-1)
        spot = functional.cross_entropy(maps_BKMM[seen_B, 0].flatten(1), _spots(spots_B2[seen_B], maps_BKMM.shape[-1]))
        losses.append(functional.smooth_l1_loss(place_B3, some.answers_GC3[:, camera]) + SPOT_WEIGHT * spot)
    return torch.stack(losses).mean()


def _spots(spots_B2: torch.Tensor, edge: int) -> torch.Tensor:
    """Shares of a map's pixels around each spot: (B, M M), each with the sum 1."""
    line_M = torch.linspace(-1, 1, edge)
    across_BM, down_BM = (-((line_M - axis[:, None]) ** 2) / (2 * SPOT**2) for axis in spots_B2.unbind(1))
    return (down_BM[:, :, None] + across_BM[:, None]).flatten(1).softmax(1)


@torch.no_grad()
def _errors_m(encoder: KeypointEncoder, judging: Lesson) -> dict[str, float]:
    images_GC3RR = encoders.normalised(judging.frames_GC3RR)
    errors = {}
    for camera, (name, tower) in enumerate(zip(libero.CAMERAS, encoder.towers, strict=True)):
        place_G3 = torch.cat([tower(images_B3RR)[1] for images_B3RR in images_GC3RR[:, camera].split(BATCH)])
        off_G = (place_G3 - judging.answers_GC3[:, camera])[:, :2].norm(dim=-1)
        seen_G = ~judging.in_image_GC2[:, camera].isnan().any(-1)
        errors[name] = round(float(off_G[seen_G].mean()) * M_PER_UNIT, 4)
    return errors
