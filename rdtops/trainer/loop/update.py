"""Update of the weights: gradients of micro-batches added up and averaged over the processes, clipped; AdamW; EMA.

Nothing here waits for the device, but for what torch's GradScaler reads with fp16.
"""

from __future__ import annotations

import torch

from rdtops.contract.config import TrainConfig
from rdtops.trainer import libraries
from rdtops.trainer.distributed.sharding import Shards, gradients
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.model.rdt import RDTPolicy


class WeightUpdate:
    def __init__(self, config: TrainConfig, policy: RDTPolicy, ema: Ema, shards: Shards, device: torch.device) -> None:
        self.policy, self.ema, self.shards = policy, ema, shards
        self.micro_batches, self.max_grad_norm = config.gradient_accumulation_steps, config.max_grad_norm
        self.optimizer = libraries.adamw(
            shards.updated(policy), device, lr=config.learning_rate, weight_decay=config.weight_decay,
            betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon)
        self.scaler = libraries.gradient_scaler(device, enabled=config.mixed_precision == "fp16")
        self._averaging = shards.averaging(policy)

    def backward(self, loss: torch.Tensor, micro_batch: int) -> None:
        """Add the gradients of a micro-batch, counted from 0. During the last one they are averaged."""
        if micro_batch == self.micro_batches - 1:
            self._averaging.begin()
        self.scaler.scale(loss / self.micro_batches).backward()

    def step(self, learning_rate: float) -> torch.Tensor:
        """Update the weights and their EMA. Return the norm of the gradient before clipping, on the device."""
        self._averaging.finish()
        self.scaler.unscale_(self.optimizer)
        norm = self.shards.gradient_norm(self.policy)
        self._clip(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.policy.zero_grad()
        self.shards.after_update()
        if self.scaler.get_scale() >= scale:  # a lower scale says that the step was skipped
            self.ema.step(self.policy)
        return norm

    @torch.no_grad()
    def _clip(self, norm: torch.Tensor) -> None:
        """Clip the gradients as torch.nn.utils.clip_grad_norm_ does, by a division: fused AdamW divides in its own pass
        over them, and a division by 1 changes no bit."""
        divisor = ((norm + 1e-6) / self.max_grad_norm).clamp(min=1.0)
        if self.shards.scales_in_update and self.optimizer.defaults["fused"] and not self.scaler.is_enabled():
            self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        else:  # GradScaler sets grad_scale itself
            libraries.divide(gradients(self.policy), divisor)
