"""Norms of the model: each row times the inverse root of its power, times a weight."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.function import once_differentiable

NORMS = ("timm_1_0_3", "rms")
NORM_EPS = 1e-6


class Norm(nn.Module):
    """A norm: scales by the inverse root of the mean square ("rms"), or of the unbiased variance ("timm_1_0_3").

    timm 1.0.3 calls the second one RmsNorm, and the published weights were trained with it. The mean is subtracted
    for the variance only, not from x.
    """

    def __init__(self, size: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x) -> torch.Tensor:
        return _Scaled.apply(x, self.weight, self.kind == "timm_1_0_3")


class _Scaled(torch.autograd.Function):
    """x * rsqrt(power + eps) * weight in float32. For the backward pass it saves x in its own format and one number a
    row; autograd would save three copies of x in float32, of the keys of thousands of image tokens in every block."""

    @staticmethod
    def forward(ctx, x, weight, centred: bool):
        scale = torch.rsqrt(_power(x.float(), centred) + NORM_EPS)  # float32, so the products are float32
        ctx.save_for_backward(x, weight, scale)
        ctx.centred = centred
        return torch.mul(x * scale, weight, out=torch.empty_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, scale = ctx.saved_tensors
        grad_weight = (x * scale).mul_(gradient).sum(tuple(range(x.ndim - 1)))
        grad_x = gradient * weight
        # the derivative of the row's power by x; for centred rows around their mean
        pull = (grad_x * x).sum(-1, keepdim=True) * scale**3 / (x.shape[-1] - ctx.centred)
        centre = x.mean(-1, keepdim=True, dtype=torch.float32) if ctx.centred else 0
        grad_x.mul_(scale).addcmul_(x, pull, value=-1)
        return torch.add(grad_x, centre * pull, out=torch.empty_like(x)), grad_weight, None


def _power(x, centred: bool) -> torch.Tensor:
    """Return the unbiased variance of each row, or the mean square."""
    if not centred:
        return x.square().mean(-1, keepdim=True)
    if x.is_cuda:
        return x.var(-1, keepdim=True)
    apart = x - x.mean(-1, keepdim=True)  # torch.var takes four times as long on a CPU
    return apart.square_().sum(-1, keepdim=True) / (x.shape[-1] - 1)
