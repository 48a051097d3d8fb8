"""Validation loss: the loss of the EMA weights on held-out samples, always with the same noise.

Every evaluation predicts the same actions from the same noise at the same diffusion steps, so that two checkpoints
differ by their weights alone. The samples come in batches of one size, independent of the training's batch, so that
the number of processes does not change the last bits either.
"""

from __future__ import annotations

import numpy as np
import torch

from rdtops.trainer.data.actions import SLOTS
from rdtops.trainer.data.samples import Batch, Sample, Samples, collate
from rdtops.trainer.loop.fixed_batches import FixedBatches
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy

PIECE = 8  # samples of a batch; without gradients this takes less memory than training with a batch of one
_HELDOUT = 4  # separates these draws from those of rdtops.trainer.data.samples and split


class ValidationLoss:
    """The validation loss, an evaluation in pieces of PIECE samples; falsy when nothing is held out."""

    def __init__(self, samples: Samples, conditions: Conditions, device: torch.device) -> None:
        self.samples = samples
        self.count = samples.config.heldout_samples if len(samples.split.heldout) else 0
        self.pieces = -(-self.count // PIECE)
        self.batches = FixedBatches(conditions, device, self._batch)
        self._places = np.random.default_rng((samples.config.seed, _HELDOUT)).permutation(self.count)
        self._valid_steps = sum(samples.valid_steps_of(self._sample(number)) for number in range(self.count))

    def __bool__(self) -> bool:
        return self.count > 0

    def read(self, piece: int) -> Batch:
        return self.batches.read(piece)

    @torch.no_grad()
    def part(self, policy: RDTPolicy, piece: int) -> torch.Tensor:
        """Return the share of a piece in the training loss over all held-out predictions. The policy is in evaluation
        mode, on the device."""
        conditions, batch = self.batches.encoded(piece)
        return policy.loss(**conditions, **batch.target.arguments(), valid_steps=self._valid_steps,
                           slot_weights=self.samples.slot_weights)

    def total(self, parts: torch.Tensor) -> float:
        return float(parts.sum())

    def _batch(self, piece: int) -> Batch:
        """Read a batch: 1.6 MB for 8 samples of 128 x 128 pixels."""
        return collate([self._item(number) for number in range(piece * PIECE, min((piece + 1) * PIECE, self.count))])

    def _sample(self, number: int) -> int:
        """Return the sample of an item. Numbers are spread evenly over the held-out samples, repeating them where there
        are fewer."""
        heldout = self.samples.split.heldout
        return int(heldout[number * len(heldout) // self.count if len(heldout) > self.count else number % len(heldout)])

    def _item(self, number: int) -> Sample:
        """Return one item. Places are spread, in another order than the samples, over the diffusion steps: 128 random
        draws would have more variance."""
        config = self.samples.config
        noise = np.random.default_rng((config.seed, _HELDOUT, number)).standard_normal(
            (self.samples.horizon, SLOTS), np.float32)
        timestep = (2 * int(self._places[number]) + 1) * self.samples.diffusion_steps // (2 * self.count)
        return self.samples.clean(self._sample(number), config.seed).with_draw(noise, timestep)
