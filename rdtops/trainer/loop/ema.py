"""EMA weights, which are evaluated and deployed. float32, updated once per optimiser step.

Of several processes each has its part of them, as rdtops.trainer.distributed.sharding says; the rest of its policy is
on the meta device.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from rdtops.trainer.distributed.sharding import held
from rdtops.trainer.model.rdt import RDTPolicy


class Ema:
    def __init__(self, policy: RDTPolicy) -> None:
        """Start as a copy of the policy, which must be in float32: in bf16 the EMA would stop changing after 4096
        steps."""
        assert all(p.dtype == torch.float32 for p in policy.parameters())
        self.policy = copy.deepcopy(policy).requires_grad_(False).eval()
        self.settings: dict[str, Any] = policy.config.get("ema") or {}
        self.updates = 0  # saved with the weights; otherwise a resumed EMA would start over
        self._of: tuple[RDTPolicy, RDTPolicy] | None = None
        self._averages: list[torch.Tensor] = []
        self._currents: list[torch.Tensor] = []

    @property
    def decay(self) -> float:
        """Decay of the next step, the share of the old EMA that is kept: 1 - (1 + n)^-0.75, at most 0.9999."""
        step = max(0, self.updates - self.settings.get("update_after_step", 0) - 1)
        if step == 0:
            return 0.0
        value = 1 - (1 + step / self.settings.get("inv_gamma", 1.0)) ** -self.settings.get("power", 0.75)
        return max(self.settings.get("min_value", 0.0), min(value, self.settings.get("max_value", 0.9999)))

    @torch.no_grad()
    def step(self, policy: RDTPolicy) -> None:
        if self._of != (self.policy, policy):  # iterating over two models costs more than averaging a small one
            self._of = self.policy, policy
            pairs = zip(self.policy.parameters(), policy.parameters(), strict=True)
            mine = [(held(average), held(current)) for average, current in pairs if not average.is_meta]
            self._averages, self._currents = map(list, zip(*mine, strict=True))
        torch._foreach_lerp_(self._averages, self._currents, 1 - self.decay)
        self.updates += 1
