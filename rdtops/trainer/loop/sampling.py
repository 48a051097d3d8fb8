"""Action error: actions predicted by the EMA weights, as when deployed, against the recorded ones."""

from __future__ import annotations

import torch

from rdtops.trainer.data.samples import Batch, Samples, collate
from rdtops.trainer.loop.fixed_batches import FixedBatches
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy

SAMPLES_PREDICTED = 8  # spread evenly over the whole dataset, always the same


class ActionError:
    """The action error, an evaluation in one piece: a smaller batch would give other last digits."""

    pieces = 1

    def __init__(self, samples: Samples, conditions: Conditions, device: torch.device) -> None:
        self.samples = samples
        self.batches = FixedBatches(conditions, device, self._batch)

    def read(self, piece: int) -> Batch:
        return self.batches.read(piece)

    @torch.no_grad()
    def part(self, policy: RDTPolicy, piece: int) -> torch.Tensor:
        """Return the mean squared error over the actions and slots that count, in the units of the codec."""
        conditions, batch = self.batches.encoded(piece)
        predicted = policy.predict_action(**conditions, noise=batch.target.noise_BHA)
        counted = batch.target.step_mask_BH[..., None] * batch.observation.action_mask_B1A
        return ((predicted - batch.target.actions_BHA).square() * counted).sum() / counted.sum()

    def total(self, parts: torch.Tensor) -> float:
        return float(parts[0])

    def _batch(self, _piece: int) -> Batch:
        dataset, seed = self.samples.dataset, self.samples.config.seed
        count = min(SAMPLES_PREDICTED, len(dataset))
        spread = [number * len(dataset) // count for number in range(count)]
        return collate([self.samples.clean(sample, seed) for sample in spread])
