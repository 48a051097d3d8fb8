"""Action error: actions predicted by the EMA weights, as when deployed, against the recorded ones."""

from __future__ import annotations

from functools import cached_property

import torch

from rdtops.trainer.data.samples import Batch, Samples, collate
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy

SAMPLES_PREDICTED = 8  # spread evenly over the whole dataset, always the same


class ActionError:
    def __init__(self, samples: Samples, conditions: Conditions, device: torch.device) -> None:
        self.samples, self.conditions, self.device = samples, conditions, device

    def read(self) -> None:
        """Read the samples that `of` needs, unless they were read before. Raise DataError."""
        _ = self._batch

    @torch.no_grad()
    def of(self, policy: RDTPolicy) -> float:
        """Return the mean squared error over the actions and slots that count, in the units of the codec."""
        batch = self._batch.to(self.device)
        predicted = policy.predict_action(**self.conditions.of(batch.observation), noise=batch.target.noise_BHA)
        counted = batch.target.step_mask_BH[..., None] * batch.observation.action_mask_B1A
        return float(((predicted - batch.target.actions_BHA).square() * counted).sum() / counted.sum())

    @cached_property
    def _batch(self) -> Batch:
        """Return the batch, read once and kept in host memory: 1.6 MB of 128 x 128 pixels."""
        dataset, seed = self.samples.dataset, self.samples.config.seed
        count = min(SAMPLES_PREDICTED, len(dataset))
        spread = [number * len(dataset) // count for number in range(count)]
        return collate([self.samples.clean(sample, seed) for sample in spread])
