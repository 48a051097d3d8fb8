"""Fixed batches of an evaluation, the same every time: read once, and their images encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from rdtops.trainer.data.observation import ObservationBatch
from rdtops.trainer.data.samples import Batch
from rdtops.trainer.model.conditions import Conditions

# of one process: for 128 samples on one GPU 0.86 GB are enough (4 images of 1.68 MB each). On a GPU the memory is
# pinned, the host cannot swap it, and every process of the host has its own
KEPT_BYTES = 2 << 30


class FixedBatches:
    """Numbered batches, in host memory with the image tokens of as many as fit into KEPT_BYTES. Others are encoded
    every time."""

    def __init__(self, conditions: Conditions, device: torch.device, read: Callable[[int], Batch]) -> None:
        self.conditions, self.device = conditions, device
        self._read = read
        self._batches: dict[int, Batch] = {}
        self._tokens: dict[int, torch.Tensor] = {}

    def read(self, number: int) -> Batch:
        """Return a batch in host memory, read the first time. Raise DataError."""
        if number not in self._batches:
            self._batches[number] = self._read(number)
        return self._batches[number]

    def encoded(self, number: int) -> tuple[dict[str, torch.Tensor], Batch]:
        """Return the model's conditions of a batch and the batch itself, on the device."""
        batch = self.read(number).to(self.device)
        return self.conditions.of(batch.observation, self._image_tokens(number, batch.observation)), batch

    def _image_tokens(self, number: int, told: ObservationBatch) -> torch.Tensor:
        kept = self._tokens.get(number)
        if kept is not None:
            return kept.to(self.device, non_blocking=True)
        tokens = self.conditions.image_tokens(told)
        if sum(t.numel() * t.element_size() for t in [*self._tokens.values(), tokens]) <= KEPT_BYTES:
            memory = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=tokens.is_cuda)
            self._tokens[number] = memory.copy_(tokens)
            batch = self._batches[number]
            self._batches[number] = replace(batch, observation=batch.observation.without_images())
        return tokens
