"""FSDP2: everything sharded over the processes (torch's fully_shard): `--set sharding=fsdp2`.

Each process keeps its shard of every weight, gradient, moment and EMA weight. A block's weights are gathered just
before its forward and backward pass and freed after it; its gradients are reduced and scattered at once. Weights are
gathered in float32 and cast by autocast, as without sharding: gathering them in bf16 would halve the traffic and change
the results of the norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from rdtops.trainer.distributed.averaging import Averaging
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.distributed.sharding import Gathered, PiecewiseEvaluation, Shards
from rdtops.trainer.model.rdt import RDTPolicy


class Fsdp2(Shards):
    scales_in_update = False  # torch's fused AdamW takes no plain tensor beside DTensors

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks)
        with ranks.collective():
            self._mesh = init_device_mesh(ranks.device.type, (ranks.world,))

    def place(self, policy: RDTPolicy) -> RDTPolicy:
        """Place block by block, so that the device never holds more than its shard and one whole block."""
        for module in (*policy.model.blocks, policy):
            # also the outermost module: otherwise its weights stay whole, and its EMA weights stay old
            fully_shard(module, mesh=self._mesh, reshard_after_forward=True, shard_placement_fn=self._cut)
        for module, method in ((policy, "loss"), (policy, "predict_action"),
                               *((block, "keys_values") for block in policy.model.blocks)):
            register_fsdp_forward_method(module, method)
        return policy

    def averaging(self, policy: RDTPolicy) -> Averaging:  # noqa: ARG002  # the backward pass averages
        return Averaging(self.ranks, [])

    def keep_part(self, policy: RDTPolicy) -> None:
        """Do nothing: placing the policy cuts it up."""

    def evaluate(self, policy: RDTPolicy, evaluation: PiecewiseEvaluation) -> float:
        """Let all processes work on all pieces, because each block is gathered from all of them."""
        pieces = range(evaluation.pieces)
        self.ranks.together(lambda: [evaluation.read(piece) for piece in pieces])  # an error later lets the others wait
        with self.ranks.collective():
            return evaluation.total(torch.stack([evaluation.part(policy, piece).double() for piece in pieces]))

    def weights(self, policy: RDTPolicy) -> Mapping[str, torch.Tensor]:
        return self._gathered(policy.state_dict())

    def ema_weights(self, policy: RDTPolicy) -> Mapping[str, torch.Tensor]:
        return self.weights(policy)

    def moments(self, policy: RDTPolicy, optimizer: torch.optim.Optimizer) -> Mapping[str, torch.Tensor]:
        return self._gathered(super().moments(policy, optimizer))

    def part(self, whole: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        assert isinstance(parameter, DTensor)
        if whole.ndim == 0:  # the step
            return super().part(whole, parameter)
        parts = distribute_tensor(whole.to(self.ranks.device), self._mesh, parameter.placements, src_data_rank=None)
        return parts.clone()  # a view would keep the whole tensor alive

    def _added_up(self, number: torch.Tensor) -> torch.Tensor:
        return self.ranks.gather(number[None]).sum()

    def _cut(self, parameter: torch.nn.Parameter) -> Shard:
        """Shard along the first axis that gives equal parts, else axis 0: position embeddings have a first axis of
        1."""
        axes = (axis for axis, size in enumerate(parameter.shape) if size % self.ranks.world == 0)
        return Shard(next(axes, 0))

    def _gathered(self, tensors: Mapping[str, torch.Tensor]) -> Gathered:
        return Gathered({name: partial(self._whole, tensor) for name, tensor in tensors.items()})

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        with self.ranks.collective():
            return tensor.full_tensor()
