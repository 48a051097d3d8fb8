"""Validation loss: the loss of the EMA weights on held-out samples, always with the same noise.

Every evaluation predicts the same actions from the same noise at the same diffusion steps, so that two checkpoints
differ by their weights alone. The samples come in batches of one size, independent of the training's batch, so that
the number of processes does not change the last bits either.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from rdtops.trainer.data.actions import SLOTS
from rdtops.trainer.data.samples import Batch, Sample, Samples, collate
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy

PIECE = 8  # samples of a batch; without gradients this takes less memory than training with a batch of one
_HELDOUT = 4  # separates these draws from those of rdtops.trainer.data.samples and split


class ValidationLoss:
    """The validation loss; falsy when nothing is held out."""

    def __init__(self, samples: Samples, conditions: Conditions, device: torch.device) -> None:
        self.samples, self.conditions, self.device = samples, conditions, device
        self.count = samples.config.heldout_samples if len(samples.split.heldout) else 0

    def __bool__(self) -> bool:
        return self.count > 0

    def read(self) -> None:
        """Read the samples that `of` needs, unless they were read before. Raise DataError."""
        _ = self._batches

    @torch.no_grad()
    def of(self, policy: RDTPolicy) -> float:
        """Return the training loss over all held-out predictions. The policy is in evaluation mode, on the device."""
        valid_steps = sum(int(batch.target.step_mask_BH.sum()) for batch in self._batches)
        parts = [self._loss(policy, batch.to(self.device), valid_steps) for batch in self._batches]
        return float(torch.stack(parts).double().sum())

    def _loss(self, policy: RDTPolicy, batch: Batch, valid_steps: int) -> torch.Tensor:
        return policy.loss(**self.conditions.of(batch.observation), **batch.target.arguments(), valid_steps=valid_steps,
                           slot_weights=self.samples.slot_weights)

    @cached_property
    def _batches(self) -> list[Batch]:
        """Return the batches, read once and kept in host memory: 25 MB for 128 samples of 128 x 128 pixels."""
        places = np.random.default_rng((self.samples.config.seed, _HELDOUT)).permutation(self.count)
        items = [self._item(number, int(place)) for number, place in enumerate(places)]
        return [collate(items[start:start + PIECE]) for start in range(0, self.count, PIECE)]

    def _item(self, number: int, place: int) -> Sample:
        """Return one item. Numbers are spread evenly over the held-out samples, repeating them where there are fewer;
        places are spread, in another order, over the diffusion steps: 128 random draws would have more variance."""
        heldout, config = self.samples.split.heldout, self.samples.config
        sample = int(heldout[number * len(heldout) // self.count if len(heldout) > self.count
                             else number % len(heldout)])
        noise = np.random.default_rng((config.seed, _HELDOUT, number)).standard_normal(
            (self.samples.horizon, SLOTS), np.float32)
        timestep = (2 * place + 1) * self.samples.diffusion_steps // (2 * self.count)
        return self.samples.clean(sample, config.seed).with_draw(noise, timestep)
