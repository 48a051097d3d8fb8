"""What every process of a training has of the weights, the gradients, Adam's moments and the EMA weights.

    none    everything; the EMA weights on rank 0 alone
    zero1   Adam's moments are shared out (ZeRO, stage 1): each process updates its own parameters and sends them round
    fsdp2   everything is shared out, the EMA weights too: rdtops/trainer/distributed/fsdp2.py

A training asks the same questions in each case, and all learn the same. A checkpoint has all of every tensor, whoever
wrote it, and is resumed with any sharding and any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import torch

from rdtops.contract.config import TrainConfig
from rdtops.errors import ConfigError
from rdtops.trainer.distributed.ranks import BUCKET_BYTES, Ranks, buckets
from rdtops.trainer.model.rdt import RDTPolicy

T = TypeVar("T")
ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")  # not ours
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def of(config: TrainConfig, ranks: Ranks) -> Shards:
    """One process alone has nothing to share out, whatever the configuration says."""
    if config.sharding == "none" or ranks.world == 1:
        return Shards(ranks)
    if config.sharding == "zero1":
        return Zero1(ranks)
    from rdtops.trainer.distributed.fsdp2 import Fsdp2  # only here: torch's part of it takes a second to import

    return Fsdp2(ranks)


def check_launcher(config: TrainConfig, environment: Mapping[str, str]) -> None:
    """`accelerate launch` hands its configuration on as environment variables. `sharding` of the run decides; raises
    ConfigError where accelerate was asked for something else, which nobody would do."""

    def asks(variable: str, value: str = "true") -> bool:
        return environment.get(variable, "").lower() == value

    refused = [f"{variable} = true" for variable in ENGINES if asks(variable)]
    if asks("ACCELERATE_USE_FSDP") and config.num_processes > 1:
        if config.sharding != "fsdp2":
            refused.append("ACCELERATE_USE_FSDP = true")
        wanted = {"FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "false"}
        if not config.gradient_checkpointing:  # the supervisor may have turned it on since, for want of memory
            wanted["FSDP_ACTIVATION_CHECKPOINTING"] = "false"
        refused += [f"{variable} = {environment.get(variable)}, the run has {value}"
                    for variable, value in wanted.items() if not asks(variable, value)]
    if refused:
        raise ConfigError(f"accelerate's configuration is not that of the run, sharding = {config.sharding}: "
                          f"{'; '.join(refused)}", remedy="inv train --set sharding=fsdp2   # it starts accelerate so")


def held(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process has of it: all, or its part. Not a copy."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class Shards:
    """Every process has everything, and rank 0 the EMA weights: `sharding=none`."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @property
    def has_ema(self) -> bool:
        """Whether this process has the EMA weights, or a part of them."""
        return self.ranks.is_first

    def place(self, policy: RDTPolicy) -> RDTPolicy:
        """Return what this process keeps of a whole policy in host memory, on its device."""
        return policy.to(self.ranks.device)

    def updated(self, policy: RDTPolicy) -> list[torch.nn.Parameter]:
        """Return what this process's optimiser updates of the placed policy. Asked once."""
        return list(policy.parameters())

    def average_gradients(self, policy: RDTPolicy) -> None:
        """After the backward pass: the mean over the processes."""
        self.ranks.average_gradients(policy.parameters())

    @torch.no_grad()
    def clip_gradients(self, policy: RDTPolicy, max_norm: float) -> float:
        """As torch.nn.utils.clip_grad_norm_. Return the norm before. It is added up in float64, so that its float32
        does not depend on how the gradients are cut up."""
        gradients = [held(p.grad) for p in policy.parameters() if p.grad is not None]
        norms = torch._foreach_norm(gradients, 2, torch.float64)  # noqa: SLF001  # clip_grad_norm_ calls it too
        squares = torch.stack(norms).square().sum()
        norm = self._added_up(squares).sqrt().float()
        share = float(max_norm / (norm + 1e-6))
        if share < 1:
            torch._foreach_mul_(gradients, share)
        return float(norm)

    def after_update(self) -> None:
        """Every process gets what it needs of the others' updates."""

    def evaluate(self, read: Callable[[], object], work: Callable[[], T]) -> T:  # noqa: ARG002  # fsdp2 reads first
        """`work` with the EMA weights, after `read` has read its samples. Return its result in every process."""
        return self.ranks.once(work)

    def weights(self, policy: RDTPolicy) -> Mapping[str, torch.Tensor]:
        """Return all of them, for a checkpoint. To read this or `moments` is the work of all processes together: each
        reads all, in order; rank 0 gets them."""
        return policy.state_dict()

    def moments(self, policy: RDTPolicy, optimizer: torch.optim.Optimizer) -> Mapping[str, torch.Tensor]:
        """Return all of Adam's, likewise: `exp_avg.` and the name of the parameter, and so on."""
        return {f"{part}.{name}": optimizer.state[parameter][part]
                for name, parameter in policy.named_parameters() if optimizer.state.get(parameter) for part in MOMENTS}

    def part(self, whole: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor | None:  # noqa: ARG002
        """Return a copy of what this process keeps of a moment of the parameter, on its device; None when nothing."""
        return whole.to(self.ranks.device, copy=True)

    def _added_up(self, number: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes' parts of the gradients."""
        return number


class Zero1(Shards):
    """AdamW treats every element for itself, so what is learnt is the same bit for bit."""

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
        """In rank 0; in others whatever they have."""
        if part == "step":  # all have made the same updates
            return next(iter(optimizer.state.values()))[part]
        moment = optimizer.state[parameter][part] if owner == self.ranks.rank else torch.empty_like(parameter)
        if owner and self.ranks.rank in (0, owner):
            self.ranks.send_to_first(moment, owner)
        return moment


class Gathered(Mapping[str, torch.Tensor]):
    """Tensors that no process has all of. Each is gathered when it is read, so that there is never more than one."""

    def __init__(self, gather: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self._gather = gather

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._gather[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._gather)

    def __len__(self) -> int:
        return len(self._gather)


def shared_out(parameters: list[torch.nn.Parameter], world: int) -> dict[int, list[torch.nn.Parameter]]:
    """The largest first, each to whoever has least: the same on every process, and nearly equal shares."""
    owned: dict[int, list[torch.nn.Parameter]] = {rank: [] for rank in range(world)}
    sizes = [0] * world
    for parameter in sorted(parameters, key=lambda p: -p.numel()):
        owner = sizes.index(min(sizes))
        owned[owner].append(parameter)
        sizes[owner] += parameter.numel()
    return owned
