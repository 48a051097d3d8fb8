"""Sharding: what every process of a training holds of the weights, gradients, Adam's moments and EMA weights.

    none    everything but the EMA weights: those of its own parameters, as assigned by `shared_out`
    zero1   of Adam's moments, too, those of its own parameters (ZeRO, stage 1), which it updates and broadcasts
    fsdp2   a shard of everything: rdtops/trainer/distributed/fsdp2.py

The interface is the same in each case, and so is the result. A checkpoint always has whole tensors, and can be resumed
with any sharding and any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import nn

from rdtops.contract.config import TrainConfig
from rdtops.errors import ConfigError
from rdtops.trainer import libraries
from rdtops.trainer.distributed.averaging import Averaging
from rdtops.trainer.distributed.ranks import BUCKET_BYTES, Ranks, buckets
from rdtops.trainer.model.rdt import RDTPolicy

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


def gradients(policy: RDTPolicy) -> list[torch.Tensor]:
    """Return this process's part of the gradients. Not copies."""
    return [held(p.grad) for p in policy.parameters() if p.grad is not None]


class PiecewiseEvaluation(Protocol):
    """An evaluation of a policy in pieces, which are the same whatever process works on them."""

    pieces: int

    def read(self, piece: int) -> object:
        """Read the samples of a piece, unless they were read before. Raise DataError."""

    def part(self, policy: RDTPolicy, piece: int) -> torch.Tensor:
        """Return what a piece adds to the result: a number, on the device."""

    def total(self, parts: torch.Tensor) -> float:
        """Return the result from the parts in float64, in the order of the pieces."""


class Shards:
    """No sharding: every process has everything, and of the EMA weights its part: `sharding=none`."""

    scales_in_update = True  # whether the optimiser can divide the gradients itself

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def place(self, policy: RDTPolicy) -> RDTPolicy:
        """Move this process's part of a policy from host memory to its device."""
        for parameter in policy.parameters():
            if not parameter.is_meta:
                parameter.data = parameter.data.to(self.ranks.device)
        return policy

    def updated(self, policy: RDTPolicy) -> list[nn.Parameter]:
        """Return the parameters of the placed policy that this process's optimiser updates. Call it once."""
        return list(policy.parameters())

    def averaging(self, policy: RDTPolicy) -> Averaging:
        """Return what averages the gradients of the placed policy over the processes."""
        return Averaging(self.ranks, policy.parameters())

    @torch.no_grad()
    def gradient_norm(self, policy: RDTPolicy) -> torch.Tensor:
        """Return the norm of the averaged gradient, on the device. It is summed in float64, so that its float32 does
        not depend on the sharding of the gradients."""
        squares = torch.stack(libraries.norms(gradients(policy))).square().sum()
        return self._added_up(squares).sqrt().float()

    def after_update(self) -> None:
        """Send each process the updates of the others that it needs."""

    # the EMA weights --------------------------------------------------------------------------------------------------

    def keep_part(self, policy: RDTPolicy) -> None:
        """Free of a whole policy in host memory what other processes keep. It is on the meta device then."""
        for owner, named in self._owned_names(policy).items():
            for name in named if owner != self.ranks.rank else ():
                _replace(policy, name, torch.empty_like(policy.get_parameter(name), device="meta"))

    @contextmanager
    def whole(self, policy: RDTPolicy) -> Iterator[RDTPolicy]:
        """Lend a policy the parts of the other processes."""
        absent = {name: parameter for name, parameter in policy.named_parameters() if parameter.is_meta}
        for name, parameter in absent.items():
            _replace(policy, name, torch.empty_like(parameter, device=self.ranks.device))
        self._spread({owner: [policy.get_parameter(name) for name in named]
                      for owner, named in self._owned_names(policy).items()})
        try:
            yield policy
        finally:
            for name, parameter in absent.items():
                _replace(policy, name, parameter)

    def evaluate(self, policy: RDTPolicy, evaluation: PiecewiseEvaluation) -> float:
        """Evaluate the EMA weights, whose pieces are shared out over the processes. Return the result in every
        process. Errors as in Ranks.together."""
        mine = range(self.ranks.rank, evaluation.pieces, self.ranks.world)
        self.ranks.together(lambda: [evaluation.read(piece) for piece in mine])
        parts = torch.zeros(-(-evaluation.pieces // self.ranks.world), dtype=torch.float64, device=self.ranks.device)
        with self.whole(policy) as model:
            for place, piece in enumerate(mine):
                parts[place] = evaluation.part(model, piece)
        gathered = self.ranks.gather(parts)
        with self.ranks.collective():  # an error of NCCL is raised where a result is read
            return evaluation.total(gathered.T.flatten()[:evaluation.pieces])

    # checkpoints ------------------------------------------------------------------------------------------------------

    def weights(self, policy: RDTPolicy) -> Mapping[str, torch.Tensor]:
        """Return all weights, for a checkpoint. Reading this, `ema_weights` or `moments` is a collective of all
        processes: each reads all, in order; rank 0 gets them."""
        return policy.state_dict()

    def ema_weights(self, policy: RDTPolicy) -> Mapping[str, torch.Tensor]:
        """Return all weights of the EMA, likewise."""
        owners = {name: owner for owner, named in self._owned_names(policy).items() for name in named}
        return Gathered({name: partial(self._sent, tensor, owners[name])
                         for name, tensor in policy.state_dict().items()})

    def moments(self, policy: RDTPolicy, optimizer: torch.optim.Optimizer) -> Mapping[str, torch.Tensor]:
        """Return all of Adam's moments, likewise: `exp_avg.` and the name of the parameter, and so on."""
        return {f"{part}.{name}": optimizer.state[parameter][part]
                for name, parameter in policy.named_parameters() if optimizer.state.get(parameter) for part in MOMENTS}

    def part(self, whole: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor | None:  # noqa: ARG002
        """Return a copy of this process's part of a moment of the parameter, on its device; None if it has no part."""
        return whole.to(self.ranks.device, copy=True)

    # between processes ------------------------------------------------------------------------------------------------

    def _added_up(self, number: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes' parts of the gradients."""
        return number

    def _owned_names(self, policy: RDTPolicy) -> dict[int, list[str]]:
        names = {parameter: name for name, parameter in policy.named_parameters()}
        return {owner: [names[parameter] for parameter in owned]
                for owner, owned in shared_out(list(names), self.ranks.world).items()}

    @torch.no_grad()
    def _spread(self, owned: Mapping[int, Sequence[torch.Tensor]]) -> None:
        """Copy every rank's own tensors into those of the others."""
        for owner, tensors in owned.items() if self.ranks.world > 1 else ():
            for group in buckets(tensors, BUCKET_BYTES):
                flat = torch.cat([t.flatten() for t in group])
                self.ranks.broadcast(flat, owner)
                for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
                    tensor.copy_(part.view_as(tensor))

    def _sent(self, tensor: torch.Tensor, owner: int) -> torch.Tensor:
        """Return the owner's tensor in rank 0; in other ranks any tensor."""
        if owner and self.ranks.is_first:
            tensor = torch.empty_like(tensor, device=self.ranks.device)
        if owner and self.ranks.rank in (0, owner):
            self.ranks.send_to_first(tensor, owner)
        return tensor


class Zero1(Shards):
    """ZeRO stage 1. AdamW treats every element separately, so the result is the same bit for bit."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks)
        self._owned: dict[int, list[nn.Parameter]] = {}

    def updated(self, policy: RDTPolicy) -> list[nn.Parameter]:
        self._owned = shared_out(list(policy.parameters()), self.ranks.world)
        return self._owned[self.ranks.rank]

    def after_update(self) -> None:
        self._spread(self._owned)

    def moments(self, policy: RDTPolicy, optimizer: torch.optim.Optimizer) -> Mapping[str, torch.Tensor]:
        names = {parameter: name for name, parameter in policy.named_parameters()}
        return Gathered({f"{part}.{names[parameter]}": partial(self._moment, optimizer, parameter, part, owner)
                         for owner, owned in self._owned.items() for parameter in owned for part in MOMENTS})

    def part(self, whole: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor | None:
        is_mine = any(parameter is mine for mine in self._owned[self.ranks.rank])
        return super().part(whole, parameter) if is_mine else None

    def _moment(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter, part: str, owner: int) -> torch.Tensor:
        """Return the moment in rank 0; in other ranks any tensor."""
        if part == "step":  # the same in every process
            return next(iter(optimizer.state.values()))[part]
        return self._sent(optimizer.state[parameter][part] if owner == self.ranks.rank else parameter.detach(), owner)


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


def shared_out(parameters: list[nn.Parameter], world: int) -> dict[int, list[nn.Parameter]]:
    """Assign the parameters, the largest first, to the rank that has least: the same on every process, nearly equal."""
    owned: dict[int, list[nn.Parameter]] = {rank: [] for rank in range(world)}
    sizes = [0] * world
    for parameter in sorted(parameters, key=lambda p: -p.numel()):
        owner = sizes.index(min(sizes))
        owned[owner].append(parameter)
        sizes[owner] += parameter.numel()
    return owned


def _replace(policy: RDTPolicy, name: str, values: torch.Tensor) -> None:
    module, _, last = name.rpartition(".")
    setattr(policy.get_submodule(module), last, values if isinstance(values, nn.Parameter)
            else nn.Parameter(values, requires_grad=False))
