"""Adam's moments shared out over the processes (ZeRO, stage 1): `--set sharding=zero1`.

Every process has all weights and gradients, as without it, but only its own part of the moments: it updates the
parameters that are its own and sends them to the others. AdamW treats every element for itself, so what is learnt is
the same bit for bit. A checkpoint has all moments, whoever wrote it, and is resumed with or without sharding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rdtops.trainer.ranks import BUCKET_BYTES, Ranks, buckets
from rdtops.trainer.rdt import RDTPolicy

MOMENTS = ("exp_avg", "exp_avg_sq")


class Shards:
    """Which process owns which parameter; one owner of all when nothing is shared out."""

    def __init__(self, policy: RDTPolicy, ranks: Ranks, sharding: str) -> None:
        self.ranks = ranks
        self.is_shared = sharding == "zero1" and ranks.world > 1
        parameters = list(policy.parameters())
        self._owned = _shared_out(parameters, ranks.world) if self.is_shared else {ranks.rank: parameters}

    @property
    def mine(self) -> list[torch.nn.Parameter]:
        """What this process's optimiser updates."""
        return self._owned[self.ranks.rank]

    @torch.no_grad()
    def send_updated(self) -> None:
        """After an update: every process gets the others' parameters."""
        if not self.is_shared:
            return
        for owner, parameters in self._owned.items():
            for group in buckets(parameters, BUCKET_BYTES):
                flat = torch.cat([p.flatten() for p in group])
                self.ranks.broadcast(flat, owner)
                for parameter, part in zip(group, flat.split([p.numel() for p in group]), strict=True):
                    parameter.copy_(part.view_as(parameter))

    def gather_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a save: rank 0's optimiser gets all moments; those of others in host memory, where no update is."""
        if not self.is_shared:
            return
        known = optimizer.state.get(self.mine[0])
        if not known:  # fp16 aside, every process has made the same updates: none has moments yet
            return
        for owner, parameter in self._of_others_than_first():
            moments = {part: self._moment(optimizer, parameter, part, owner) for part in MOMENTS}
            if self.ranks.is_first:
                optimizer.state[parameter] = {"step": known["step"].clone(), **moments}

    def keep_mine(self, optimizer: torch.optim.Optimizer) -> None:
        """After a resume, which read all moments."""
        own = {id(parameter) for parameter in self.mine}
        for parameter in [p for p in optimizer.state if id(p) not in own]:
            del optimizer.state[parameter]

    def _of_others_than_first(self) -> Iterator[tuple[int, torch.nn.Parameter]]:
        return ((owner, parameter) for owner, owned in self._owned.items() if owner for parameter in owned)

    def _moment(self, optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, part: str,
                owner: int) -> torch.Tensor:
        own = optimizer.state[parameter][part] if owner == self.ranks.rank else torch.empty_like(parameter)
        if self.ranks.rank in (0, owner):
            self.ranks.send_to_first(own, owner)
        return own.cpu()


def _shared_out(parameters: list[torch.nn.Parameter], world: int) -> dict[int, list[torch.nn.Parameter]]:
    """The largest first, each to whoever has least: the same on every process, and nearly equal shares."""
    owned: dict[int, list[torch.nn.Parameter]] = {rank: [] for rank in range(world)}
    sizes = [0] * world
    for parameter in sorted(parameters, key=lambda p: -p.numel()):
        owner = sizes.index(min(sizes))
        owned[owner].append(parameter)
        sizes[owner] += parameter.numel()
    return owned
