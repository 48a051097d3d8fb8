"""The same input gives the same bits: what is switched on, when, and, on a GPU, what comes of it at rdt-1b's sizes."""

from __future__ import annotations

import os

import pytest
import torch
from torch import distributed
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from proofs.gpu_bench.numbers import IMAGE_TOKENS, learning_policy, random_inputs
from rdtops.contract.journal import Journal
from rdtops.trainer import train
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.loop.stop import Stop
from rdtops.trainer.model.precision import make_reproducible
from rdtops.trainer.model.rdt import ARCHITECTURES
from tests.trainer.conftest import SHORT

CPU = torch.device("cpu")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
# what has no deterministic form on a GPU, after torch.use_deterministic_algorithms's list and the operators behind it
WITHOUT = {"adaptive_max_pool2d_backward", "avg_pool3d_backward", "_adaptive_avg_pool2d_backward",
           "_adaptive_avg_pool3d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
           "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
           "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward",
           "upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
           "reflection_pad3d_backward", "nll_loss_forward", "nll_loss2d_forward", "_ctc_loss_backward",
           "_embedding_bag_dense_backward", "put", "put_", "histc", "bincount", "median", "nanmedian",
           "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum", "cumsum_", "scatter_reduce",
           "scatter_reduce_", "kthvalue"}


@pytest.fixture
def as_torch_begins():
    yield torch.use_deterministic_algorithms(False)
    make_reproducible()


def test_the_mode_is_strict_and_set_before_the_process_group_is_joined(as_torch_begins, prepare, monkeypatch) -> None:
    """NCCL's communicators are made for the mode of that moment."""
    class Joined(Exception):
        pass

    found = []

    def joins(*_arguments: object, **_options: object) -> None:
        found.append((torch.are_deterministic_algorithms_enabled(),
                      torch.is_deterministic_algorithms_warn_only_enabled(),
                      torch.utils.deterministic.fill_uninitialized_memory, os.environ["CUBLAS_WORKSPACE_CONFIG"]))
        raise Joined

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(distributed, "init_process_group", joins)
    monkeypatch.setenv("WORLD_SIZE", "2")
    spec = prepare("two", *SHORT, "num_processes=2")
    with pytest.raises(Joined):
        train.run(spec, Journal(spec.paths.journal), Stop())
    assert found == [(True, False, False, ":4096:8")]


class Operators(TorchDispatchMode):
    """Collects the names of what is computed, without the `_` of what works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name.split("::")[1])
        return func(*args, **(kwargs or {}))


def test_nothing_that_a_training_computes_lacks_a_deterministic_form(prepare) -> None:
    """A GPU would raise RuntimeError in the middle of a training."""
    spec = prepare("all", *SHORT, "max_steps=2", "checkpoint_every_steps=2", "sample_every_steps=1",
                   "heldout_every_steps=1", "mixed_precision=bf16", "noise_draws_per_sample=2")
    with Operators() as used:
        training = train.Training(spec, Journal(spec.paths.journal), Ranks(0, 1, CPU), Stop())
        assert training.run() == 0
    assert {"mm", "_foreach_lerp_", "_upsample_bicubic2d_aa", "gelu_backward"} <= used.names
    assert used.names & WITHOUT == set()


def bits_of(*tensors: torch.Tensor) -> list[bytes]:
    return [tensor.detach().float().cpu().numpy().tobytes() for tensor in tensors]


@pytest.mark.parametrize("kind", ["no mask", "mask"])
@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=needs_gpu)])
def test_attention_over_all_image_tokens_repeats_its_gradients(device, kind) -> None:
    """A tiny model's 96 keys would be one block of any kernel."""
    make_reproducible()
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(1 if device == CPU else 4, 32, n, 64, device=device, dtype=torch.bfloat16,
                                         requires_grad=True) for n in (67, IMAGE_TOKENS, IMAGE_TOKENS))
    mask = torch.arange(IMAGE_TOKENS, device=device) < 4000 if kind == "mask" else None

    def gradients() -> list[bytes]:
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=None if mask is None else mask[None, None, None])
        return bits_of(*torch.autograd.grad(mixed.float().square().sum(), (queries, keys, values)))

    first = gradients()
    assert all(gradients() == first for _ in range(1 if device == CPU else 8))


@pytest.mark.parametrize("device", [pytest.param(torch.device("cuda"), marks=needs_gpu)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_as_wide_as_rdt_1b_repeats_its_gradients(device, checkpointing) -> None:
    make_reproducible()
    architecture = ARCHITECTURES["rdt-1b"]
    config = {**architecture, "rdt": {**architecture["rdt"], "depth": 4}}
    policy = learning_policy(config).to(device)
    policy.model.gradient_checkpointing = checkpointing
    there = {name: tensor.to(device) for name, tensor in random_inputs(policy).items()}

    def gradients() -> list[bytes]:
        policy.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            policy.loss(**there).backward()
        return bits_of(*(parameter.grad for parameter in policy.parameters()))

    first = gradients()
    assert all(gradients() == first for _ in range(3))
