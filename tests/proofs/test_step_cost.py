"""The cost of a training step on a GPU, counted with fake tensors, stays what it is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from proofs.trainer_bench import step_cost
from proofs.trainer_bench.step_cost import CostCounter, StepCost
from rdtops.trainer.model.rdt import ARCHITECTURES


@pytest.fixture(scope="module")
def large() -> StepCost:
    return step_cost.step_cost("rdt-1b", 4)


def test_a_step_of_rdt_1b_costs_no_more_than_it_did(large) -> None:
    assert large.kernels <= step_cost.MOST_KERNELS
    assert large.bytes_moved / 1e9 <= step_cost.MOST_GB
    assert large.kept_bytes_per_sample / 1e9 <= step_cost.MOST_KEPT_GB_A_SAMPLE


def test_the_flops_are_those_of_the_architecture(large) -> None:
    """By hand: of each sample the trajectory's 67 tokens and the cameras' 2,916, and the background's 1,458 once."""
    hidden, depth, batch, horizon = 2048, 28, 4, 67
    image = batch * 2916 + 1458
    linear = batch * horizon * depth * 8 * hidden**2  # qkv 3, proj, q, proj, mlp 2
    linear += (image + batch * 20) * depth // 2 * 2 * hidden**2  # kv
    attention = batch * horizon * depth * (2 * horizon + 4374 + 20) * hidden
    adaptors = (batch * 2916 + 729) * (1152 * hidden + hidden**2) + batch * 20 * (4096 * hidden + hidden**2)
    assert large.phases["forward"].flops == pytest.approx(2 * (linear + attention + adaptors), rel=0.02)
    assert large.phases["backward"].flops == pytest.approx(2 * large.phases["forward"].flops, rel=0.03)
    assert large.phases["encode"].flops == pytest.approx(4 * 2.67e12, rel=0.02)


def test_weights_in_bf16_are_kept_once_whatever_the_batch(large) -> None:
    assert large.weights_kept_bytes == pytest.approx(2 * large.parameters, rel=0.03)


def test_gradient_checkpointing_keeps_little_and_computes_nothing_useful_twice(monkeypatch) -> None:
    monkeypatch.setattr(step_cost, "SIGLIP", {**step_cost.SIGLIP, "num_hidden_layers": 1})
    small = {**ARCHITECTURES["rdt-170m"], "rdt": {**ARCHITECTURES["rdt-170m"]["rdt"], "depth": 4}}
    plain, again = (step_cost.step_cost("rdt-170m", 4, gradient_checkpointing=on, architecture=small)
                    for on in (False, True))
    assert again.kept_bytes < 0.4 * plain.kept_bytes  # what the adaptors keep is a large part of so few blocks
    assert again.flops == pytest.approx(plain.flops, rel=0.04)
    assert again.phases["backward"].kernels > plain.phases["backward"].kernels + plain.phases["forward"].kernels // 2


def test_operations_are_counted_by_what_they_do() -> None:
    counter = CostCounter()
    counter.enter("here")
    square, row = torch.ones(64, 64), torch.ones(64)
    with counter:
        square.t().view(64, 8, 8)[:, 1]  # no kernel
        functional.linear(square, square, row)  # 3 read and 1 written
        square.add_(1)  # read and written
        torch.mul(square, row, out=torch.empty(64, 64))
        row.copy_(row.clone())
        torch._foreach_mul_([square, row], 2)
    cost, whole, part = counter.costs["here"], square.nbytes, row.nbytes
    assert dict(cost.by_operation) == {"addmm": 1, "add_": 1, "mul": 1, "clone": 1, "copy_": 1, "_foreach_mul_": 1}
    assert cost.bytes_by_operation == {"addmm": 3 * whole + part, "add_": 2 * whole, "mul": 2 * whole + part,
                                       "clone": 2 * part, "copy_": 2 * part, "_foreach_mul_": 2 * (whole + part)}
    assert cost.flops == 2 * 64**3
    assert step_cost._launches([torch.empty(65_536 * 200, device="meta")] * 4) == 3  # 800 chunks, 320 a launch
