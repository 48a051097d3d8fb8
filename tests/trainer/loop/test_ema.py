"""The recorded ten steps are in test_rdt.py; here is what once went wrong: an average in bf16 that stopped moving."""

from __future__ import annotations

import pytest
import torch

from rdtops.errors import WeightsError
from rdtops.trainer.loop import checkpoint
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import PARITY


@pytest.fixture
def policy() -> RDTPolicy:
    return RDTPolicy.from_pretrained(PARITY / "hub_bin")


def test_it_still_moves_after_many_steps(policy) -> None:
    ema = Ema(policy)
    ema.updates = 1_000_000
    assert ema.decay == 0.9999
    bias = ema.policy.img_adaptor[0].bias
    before = bias.clone()
    with torch.no_grad():
        policy.img_adaptor[0].bias += 0.01
    ema.step(policy)
    torch.testing.assert_close(bias - before, torch.full((64,), 1e-6), rtol=0.1, atol=0)


def test_the_decay_follows_the_published_warm_up(policy) -> None:
    ema = Ema(policy)
    decays = []
    for _ in range(4):
        decays.append(ema.decay)
        ema.step(policy)
    assert decays == pytest.approx([0, 0, 1 - 2**-0.75, 1 - 3**-0.75])


def test_it_is_a_copy_without_gradients(policy) -> None:
    ema = Ema(policy)
    assert not any(p.requires_grad for p in ema.policy.parameters())
    assert {p.data_ptr() for p in ema.policy.parameters()}.isdisjoint(p.data_ptr() for p in policy.parameters())


def test_a_policy_in_bf16_is_refused(policy) -> None:
    with pytest.raises(AssertionError):
        Ema(policy.to(torch.bfloat16))


def test_an_average_that_was_replaced_is_the_one_that_moves(policy) -> None:
    """A resume puts another policy in its place."""
    ema = Ema(policy)
    ema.step(policy)
    ema.policy = RDTPolicy.from_pretrained(PARITY / "hub_bin").requires_grad_(False)
    with torch.no_grad():
        policy.img_adaptor[0].bias += 1
    ema.step(policy)
    assert torch.equal(ema.policy.img_adaptor[0].bias, policy.img_adaptor[0].bias)


def test_a_resume_frees_the_copy_before_it_reads_the_average(policy, tmp_path) -> None:
    """Eight processes of a host would have 5 GB more each, and a training that could begin could not be resumed."""
    ema = Ema(policy)
    with pytest.raises(WeightsError):
        checkpoint.restore_ema(tmp_path, ema)
    assert all(p.is_meta for p in ema.policy.parameters())
    assert not any(p.is_meta for p in policy.parameters())
