"""Keypoint training: train the keypoint encoder of a small policy on rendered samples with known object positions.

The trainer keeps its vision encoder frozen, and with `vision_cache_gib` encodes every frame once; so an encoder trained
beforehand costs a policy's training nothing. Each camera trains its own tower with two targets: its first map is high
at the object in the image, and its output is the object's place in the world: for the external camera the place, for
the wrist camera the vector from the hand. The outputs alone would suffice, but take four times as long: while the maps
are high everywhere, they get no gradient towards the object.

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
HELD_OUT = 8  # one of so many scenes is held out for validation
BATCH = 32
LEARNING_RATE = 1e-2
M_PER_UNIT = 0.05  # scale of the towers' outputs: numbers around 1
SPOT = 0.07  # standard deviation of the target spot of the first map, in halves of the image's edge
SPOT_WEIGHT = 0.1


class Lesson(NamedTuple):
    frames_GC3RR: torch.Tensor  # uint8
    answers_GC3: torch.Tensor  # in M_PER_UNIT around the mean
    in_image_GC2: torch.Tensor  # where the object is; NaN where a camera does not see it

    def of(self, numbers: np.ndarray) -> Lesson:
        return Lesson(*(column[numbers] for column in self))


def teach(samples: RenderedSamples, out: Path, steps: int, seed: int = 0) -> dict[str, float]:
    """Write the encoder into `out`. Return for each camera the mean error of its tower in m along the table, over
    held-out scenes. Raise DataError when no scene can be held out."""
    scenes = np.unique(samples.scene_G)
    judging_G = np.isin(samples.scene_G, scenes[min(HELD_OUT, len(scenes)) - 1::HELD_OUT])
    if judging_G.all():
        raise DataError("a keypoint encoder needs samples of at least two scenes: one for training, one for validation")
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
    """Return the weights of a map's pixels around each spot: (B, M M), each with the sum 1."""
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
