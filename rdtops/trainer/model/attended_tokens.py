"""Attended tokens: the language and image tokens that the blocks attend to, and their keys and values.

Shapes: B samples, D hidden width, N heads, E width of a head, K tokens attended to, S of them shared by all samples,
F = 2D: keys and values side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from rdtops.trainer.model.norm import Norm, scale, scale_backward

ALIGNMENT = 16  # numbers between the rows of an attention bias


@dataclass(frozen=True)
class Condition:
    """The tokens that a block attends to."""

    own_BKD: Tokens
    shared_1SD: Tokens | None = None  # the same for every sample, attended after its own tokens
    bias_B11K: torch.Tensor | None = None  # added to the scores; not together with shared tokens

    @property
    def dtype(self) -> torch.dtype:
        """Number format in which the blocks compute."""
        return self.own_BKD.dtype


class Tokens:
    """Tokens that many blocks read in the format of autocast: they are cast once. The blocks' gradients are added up in
    the format that they had before, as if each block had cast them."""

    def __init__(self, tokens: torch.Tensor, dtype: torch.dtype) -> None:
        self._tokens, self.dtype = tokens, dtype
        self._cast = None if tokens.dtype == dtype else tokens.detach().to(dtype)

    def read(self) -> torch.Tensor:
        return self._tokens if self._cast is None else _Cast.apply(self._tokens, self._cast)


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, cast):
        ctx.dtype = tokens.dtype
        return cast.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype), None


class KeysValues(NamedTuple):
    """A block's keys and values of a Condition, independent of the trajectory."""

    k_BNKE: torch.Tensor
    v_BNKE: torch.Tensor
    bias_B11K: torch.Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        return self.k_BNKE.dtype


def joined(own_BKF, shared_1SF, norm: Norm, heads: int) -> KeysValues:
    """Return keys and values of each sample's own tokens, and behind them those of the shared ones."""
    k_BNKE, v_BNKE = _Joined.apply(own_BKF, shared_1SF, norm.weight, norm.is_centred, heads)
    return KeysValues(k_BNKE, v_BNKE, None)


class _Joined(torch.autograd.Function):
    """Keys, normalised, and values: each sample's own, and behind them those of the shared tokens. They are written
    where they stay; concatenation would write and read them once more. Of the projections only the keys are kept for
    the backward pass.
    """

    @staticmethod
    def forward(ctx, own, shared, weight, centred: bool, heads: int):
        """own (B, K, 2D), shared (1, S, 2D), weight (E,). Return keys and values (B, N, K + S, E)."""
        ctx.centred, ctx.heads, ctx.sizes = centred, heads, (own.shape[1], shared.shape[1])
        k_BNKE, v_BNKE = (heads_of(own.new_empty(len(own), sum(ctx.sizes), own.shape[-1] // 2), heads)
                          for _ in range(2))
        kept = []
        for part, place_k, place_v in zip((own, shared), *(whole.split(ctx.sizes, 2) for whole in (k_BNKE, v_BNKE)),
                                          strict=True):
            keys, values = key_value_heads(part, heads)
            kept += [keys.clone(), scale(keys, weight, place_k[:len(keys)], centred=centred)]
            place_k[len(keys):].copy_(place_k[:1])
            place_v.copy_(values)
        ctx.save_for_backward(weight, *kept)
        return k_BNKE, v_BNKE

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_k_BNKE, grad_v_BNKE):
        weight, own_keys, own_factors, shared_keys, shared_factors = ctx.saved_tensors
        gradients, of_weight = [], []
        for keys, factors, grad_k, grad_v in zip((own_keys, shared_keys), (own_factors, shared_factors),
                                                 *(whole.split(ctx.sizes, 2) for whole in (grad_k_BNKE, grad_v_BNKE)),
                                                 strict=True):
            gradient = keys.new_empty(len(keys), keys.shape[2], 2 * keys.shape[1] * keys.shape[3])
            into_k, into_v = key_value_heads(gradient, ctx.heads)
            of_weight.append(scale_backward(grad_k.sum_to_size(keys.shape), keys, weight, factors, into_k,
                                            centred=ctx.centred))
            into_v.copy_(grad_v.sum_to_size(keys.shape))
            gradients.append(gradient)
        return *gradients, of_weight[0] + of_weight[1], None, None


def heads_of(x_BTD, heads: int) -> torch.Tensor:
    return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def key_value_heads(projected_BKF, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the heads of keys and values (B, N, K, E) of what `kv` returns, F = 2D."""
    keys, values = (heads_of(part, heads) for part in projected_BKF.chunk(2, dim=-1))
    return keys, values


def attention_bias(mask_BK, dtype: torch.dtype) -> torch.Tensor | None:
    """Return what attention adds to its scores, -inf where the mask is False. Attention would make it of the mask in
    every block. Rows begin at multiples of ALIGNMENT, as its kernels want it."""
    if mask_BK is None:
        return None
    assert mask_BK.dtype == torch.bool, mask_BK.dtype  # numbers would be added, and mask nothing
    samples, tokens = mask_BK.shape
    bias_BK = mask_BK.new_zeros(samples, tokens + -tokens % ALIGNMENT, dtype=dtype)[:, :tokens]
    return bias_BK.masked_fill_(~mask_BK, -math.inf)[:, None, None]
