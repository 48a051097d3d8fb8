"""Casting once and writing keys and values in place change no bit of what each block's own cast and concatenation
compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from rdtops.trainer.model import attended_tokens, norm, rdt
from rdtops.trainer.model.attended_tokens import KeysValues, Tokens
from rdtops.trainer.model.norm import NORMS, Norm
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy
from tests.trainer.model.test_sharing import given, gradients, targets

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": None}


def model(kind: str = "timm_1_0_3", *, checkpointing: bool = False) -> RDTPolicy:
    torch.manual_seed(0)
    policy = RDTPolicy({**ARCHITECTURES["tiny"], "norm": kind})
    torch.nn.init.normal_(policy.model.final_layer.ffn_final.fc2.weight, std=0.1)
    for module in policy.modules():
        if isinstance(module, Norm):
            torch.nn.init.normal_(module.weight, mean=1.0, std=0.2)
    policy.model.gradient_checkpointing = checkpointing
    return policy


def concatenated(own_BKF, shared_1SF, k_norm: Norm, heads: int) -> KeysValues:
    (own_k, own_v), (shared_k, shared_v) = (attended_tokens.key_value_heads(part, heads)
                                            for part in (own_BKF, shared_1SF))
    pairs = ((k_norm(own_k), k_norm(shared_k)), (own_v, shared_v))
    keys, values = (torch.cat([own, shared.expand(len(own), -1, -1, -1)], dim=2) for own, shared in pairs)
    return KeysValues(keys, values, None)


@pytest.fixture
def block_by_block(monkeypatch):
    """Return a context in which each block casts its tokens and its norms, masks its scores and concatenates."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Tokens, "read", lambda self: self._tokens)
            patch.setattr(rdt, "joined", concatenated)
            patch.setattr(rdt, "attention_bias", lambda mask_BK, _: mask_BK[:, None, None])
            patch.setattr(Norm, "forward", lambda self, x, _=None: norm._Scaled.apply(x, self.weight, self.is_centred,
                                                                                      x.dtype))
            yield

    return context


def autocast(name: str):
    return torch.autocast("cpu", FORMATS[name]) if FORMATS[name] else contextlib.nullcontext()


def learnt(policy: RDTPolicy, precision: str) -> dict[str, torch.Tensor]:
    with autocast(precision):
        loss = policy.loss(**given(), **targets(2))
    return {"loss": loss.detach(), **gradients(policy, loss)}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_gradient_has_the_bits_of_casting_in_each_block(block_by_block, precision, checkpointing, kind) -> None:
    ours = learnt(model(kind, checkpointing=checkpointing), precision)
    with block_by_block():
        theirs = learnt(model(kind, checkpointing=checkpointing), precision)
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []


@pytest.mark.parametrize("precision", FORMATS)
def test_a_prediction_has_the_bits_of_casting_in_each_block(block_by_block, precision) -> None:
    def predicted() -> torch.Tensor:
        with autocast(precision):
            return model().predict_action(**given(), noise=targets()["noise"])

    ours = predicted()
    with block_by_block():
        assert torch.equal(ours, predicted())


def test_the_blocks_gradients_are_added_up_in_the_format_before_the_cast() -> None:
    """In bfloat16 the sum of 1 and 2**-9 is 1."""
    tokens = torch.ones(3, requires_grad=True)
    read = Tokens(tokens, torch.bfloat16)
    for scale in (1.0, 2**-9, 2**-9):
        (read.read() * scale).sum().backward()
    together = Tokens(tokens, torch.bfloat16)
    first = tokens.grad.clone()
    tokens.grad = None
    sum((together.read() * scale).sum() for scale in (1.0, 2**-9, 2**-9)).backward()
    assert first.tolist() == tokens.grad.tolist() == [1 + 2**-8] * 3
    assert read.read().dtype == torch.bfloat16


def test_tokens_are_cast_once_and_kept_once() -> None:
    read = Tokens(torch.ones(3, requires_grad=True), torch.bfloat16)
    assert len({read.read().data_ptr() for _ in range(3)}) == 1
    same = Tokens(torch.ones(3), torch.float32)
    assert same.read() is same.read()


def test_a_mask_must_be_boolean_and_its_bias_has_aligned_rows() -> None:
    bias = attended_tokens.attention_bias(torch.tensor([[True, False, True]] * 2), torch.bfloat16)
    assert bias.flatten(1).tolist() == [[0, float("-inf"), 0]] * 2
    assert bias.stride(0) % 16 == 0
    with pytest.raises(AssertionError):
        attended_tokens.attention_bias(torch.ones(2, 3), torch.bfloat16)
