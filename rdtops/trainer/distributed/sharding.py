"""Sharding: what every process of a training holds of the weights, gradients, Adam's moments and EMA weights.

    none    everything; the EMA weights on rank 0 alone
    zero1   Adam's moments are sharded (ZeRO, stage 1): each process updates its own parameters and broadcasts them
    fsdp2   everything is sharded, the EMA weights too: rdtops/trainer/distributed/fsdp2.py

The interface is the same in each case, and so is the result. A checkpoint always has whole tensors, and can be resumed
with any sharding and any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import torch

from rdtops.contract.config import TrainConfig
from rdtops.errors import ConfigError
from rdtops.trainer import libraries
from rdtops.trainer.distributed.ranks import BUCKET_BYTES, Ranks, buckets
from rdtops.trainer.model.rdt import RDTPolicy

T = TypeVar("T")
ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")  # refused
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def of(config: TrainConfig, ranks: Ranks) -> Shards:
    """Return the sharding of a configuration. A single process has nothing to shard, whatever the configuration."""
    if config.sharding == "none" or ranks.world == 1:
        return Shards(ranks)
    if config.sharding == "zero1":
        return Zero1(ranks)
    libraries.require_fsdp2()
    from rdtops.trainer.distributed.fsdp2 import Fsdp2  # imported here: torch's part of it takes a second

    return Fsdp2(ranks)


def check_launcher(config: TrainConfig, environment: Mapping[str, str]) -> None:
    """Check accelerate's configuration, which `accelerate launch` passes as environment variables. `sharding` of the
    run decides; raise ConfigError where accelerate is configured otherwise, because nothing would apply that."""

    def asks(variable: str, value: str = "true") -> bool:
        return environment.get(variable, "").lower() == value

    refused = [f"{variable} = true" for variable in ENGINES if asks(variable)]
    if asks("ACCELERATE_USE_FSDP") and config.num_processes > 1:
        if config.sharding != "fsdp2":
            refused.append("ACCELERATE_USE_FSDP = true")
        wanted = {"FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "false"}
        if config.gradient_checkpointing is not True:  # the supervisor may have enabled it since, for lack of memory
            wanted["FSDP_ACTIVATION_CHECKPOINTING"] = "false"
        refused += [f"{variable} = {environment.get(variable)}, the run has {value}"
                    for variable, value in wanted.items() if not asks(variable, value)]
    if refused:
        raise ConfigError(f"accelerate's configuration is not that of the run, sharding = {config.sharding}: "
                          f"{'; '.join(refused)}", remedy="inv train --set sharding=fsdp2   # it configures accelerate")


def held(tensor: torch.Tensor) -> torch.Tensor:
    """Return the local part of a tensor: all of it, or the shard of this process. Not a copy."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class Shards:
    """No sharding: every process has everything, and rank 0 also the EMA weights: `sharding=none`."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @property
    def has_ema(self) -> bool:
        """Whether this process has the EMA weights, or a shard of them."""
        return self.ranks.is_first

    def place(self, policy: RDTPolicy) -> RDTPolicy:
        """Move this process's part of a whole policy from host memory to its device."""
        return policy.to(self.ranks.device)

    def updated(self, policy: RDTPolicy) -> list[torch.nn.Parameter]:
        """Return the parameters of the placed policy that this process's optimiser updates. Call it once."""
        return list(policy.parameters())

    def average_gradients(self, policy: RDTPolicy) -> None:
        """Average the gradients over the processes, after the backward pass."""
        self.ranks.average_gradients(policy.parameters())

    @torch.no_grad()
    def clip_gradients(self, policy: RDTPolicy, max_norm: float) -> float:
        """Clip as torch.nn.utils.clip_grad_norm_ does. Return the norm before. It is summed in float64, so that its
        float32 does not depend on the sharding of the gradients."""
        gradients = [held(p.grad) for p in policy.parameters() if p.grad is not None]
        squares = torch.stack(libraries.norms(gradients)).square().sum()
        norm = self._added_up(squares).sqrt().float()
        share = float(max_norm / (norm + 1e-6))
        if share < 1:
            torch._foreach_mul_(gradients, share)
        return float(norm)

    def after_update(self) -> None:
        """Send each process the updates of the others that it needs."""

    def evaluate(self, read: Callable[[], object], work: Callable[[], T]) -> T:  # noqa: ARG002  # fsdp2 reads first
        """Run `work` with the EMA weights, after `read` has read its samples. Return its result in every process."""
        return self.ranks.once(work)

    def weights(self, policy: RDTPolicy) -> Mapping[str, torch.Tensor]:
        """Return all weights, for a checkpoint. Reading this or `moments` is a collective of all processes: each reads
        all, in order; rank 0 gets them."""
        return policy.state_dict()

    def moments(self, policy: RDTPolicy, optimizer: torch.optim.Optimizer) -> Mapping[str, torch.Tensor]:
        """Return all of Adam's moments, likewise: `exp_avg.` and the name of the parameter, and so on."""
        return {f"{part}.{name}": optimizer.state[parameter][part]
                for name, parameter in policy.named_parameters() if optimizer.state.get(parameter) for part in MOMENTS}

    def part(self, whole: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor | None:  # noqa: ARG002
        """Return a copy of this process's part of a moment of the parameter, on its device; None if it has no part."""
        return whole.to(self.ranks.device, copy=True)

    def _added_up(self, number: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes' parts of the gradients."""
        return number


class Zero1(Shards):
    """ZeRO stage 1. AdamW treats every element separately, so the result is the same bit for bit."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks)
        self._owned: dict[int, list[torch.nn.Parameter]] = {}

    def updated(self, policy: RDTPolicy) -> list[torch.nn.Parameter]:
        self._owned = shared_out(list(policy.parameters()), self.ranks.world)
        return self._owned[self.ranks.rank]

    @torch.no_grad()
    def after_update(self) -> None:
        for owner, parameters in self._owned.items():
            for group in buckets(parameters, BUCKET_BYTES):
                flat = torch.cat([p.flatten() for p in group])
                self.ranks.broadcast(flat, owner)
                for parameter, part in zip(group, flat.split([p.numel() for p in group]), strict=True):
                    parameter.copy_(part.view_as(parameter))

    def moments(self, policy: RDTPolicy, optimizer: torch.optim.Optimizer) -> Mapping[str, torch.Tensor]:
        names = {parameter: name for name, parameter in policy.named_parameters()}
        return Gathered({f"{part}.{names[parameter]}": partial(self._moment, optimizer, parameter, part, owner)
                         for owner, owned in self._owned.items() for parameter in owned for part in MOMENTS})

    def part(self, whole: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        is_mine = any(parameter is mine for mine in self._owned[self.ranks.rank])
        return super().part(whole, parameter) if is_mine else None

    def _moment(self, optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, part: str,
                owner: int) -> torch.Tensor:
        """Return the moment in rank 0; in other ranks any tensor."""
        if part == "step":  # the same in every process
            return next(iter(optimizer.state.values()))[part]
        moment = optimizer.state[parameter][part] if owner == self.ranks.rank else torch.empty_like(parameter)
        if owner and self.ranks.rank in (0, owner):
            self.ranks.send_to_first(moment, owner)
        return moment


class Gathered(Mapping[str, torch.Tensor]):
    """Sharded tensors. Each is gathered when it is read, so that never more than one is whole."""

    def __init__(self, gather: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self._gather = gather

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._gather[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._gather)

    def __len__(self) -> int:
        return len(self._gather)


def shared_out(parameters: list[torch.nn.Parameter], world: int) -> dict[int, list[torch.nn.Parameter]]:
    """Assign the parameters, the largest first, to the rank that has least: the same on every process, nearly equal."""
    owned: dict[int, list[torch.nn.Parameter]] = {rank: [] for rank in range(world)}
    sizes = [0] * world
    for parameter in sorted(parameters, key=lambda p: -p.numel()):
        owner = sizes.index(min(sizes))
        owned[owner].append(parameter)
        sizes[owner] += parameter.numel()
    return owned
