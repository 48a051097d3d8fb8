"""Norms of the model: each row times the inverse root of its power, times a weight.

On a GPU that Triton can compile for, one kernel forward and two backward (norm_kernels); elsewhere torch's operations,
which are the reference of the kernels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from rdtops.trainer.model import norm_kernels

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

    @property
    def is_centred(self) -> bool:
        return self.kind == "timm_1_0_3"

    def forward(self, x, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the norm of x (..., W) in x's format, or in another one, which costs no cast."""
        return _Scaled.apply(x, self.weight, self.is_centred, dtype or x.dtype)


class _Scaled(torch.autograd.Function):
    """x * rsqrt(power + eps) * weight in float32. For the backward pass it saves x in its own format and one number a
    row; autograd would save three copies of x in float32, of the keys of thousands of image tokens in every block."""

    @staticmethod
    def forward(ctx, x, weight, centred: bool, dtype: torch.dtype):
        y = torch.empty_like(x, dtype=dtype)
        ctx.save_for_backward(x, weight, scale(x, weight, y, centred=centred))
        ctx.centred = centred
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, factors = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        return grad_x, scale_backward(gradient, x, weight, factors, grad_x, centred=ctx.centred), None, None


def scale(x, weight, into, *, centred: bool) -> torch.Tensor:
    """Write x * factor * weight `into` a tensor of x's shape. Return each row's factor, in float32."""
    if has_kernels(x):
        return norm_kernels.scale(x, weight, into, centred=centred, eps=NORM_EPS)
    factors = torch.rsqrt(_power(x.float(), centred) + NORM_EPS)  # float32, so the products are float32
    torch.mul(x * factors, weight, out=into)
    return factors


def scale_backward(gradient, x, weight, factors, into, *, centred: bool) -> torch.Tensor:
    """Write the gradient of x `into` a tensor of its shape. Return the gradient of the weight."""
    if has_kernels(x):
        return norm_kernels.scale_backward(gradient, x, weight, factors, into, centred=centred)
    grad_weight = (x * factors).mul_(gradient).sum(tuple(range(x.ndim - 1)))
    grad_x = gradient * weight
    # the derivative of the row's power by x; for centred rows around their mean
    pull = (grad_x * x).sum(-1, keepdim=True) * factors**3 / (x.shape[-1] - centred)
    centre = x.mean(-1, keepdim=True, dtype=torch.float32) if centred else 0
    grad_x.mul_(factors).addcmul_(x, pull, value=-1)
    torch.add(grad_x, centre * pull, out=into)
    return grad_weight


def has_kernels(x) -> bool:
    """Tell whether x's norm is computed by kernels of its own."""
    return x.is_cuda and norm_kernels.are_usable(x.device)


def _power(x, centred: bool) -> torch.Tensor:
    """Return the unbiased variance of each row, or the mean square."""
    if not centred:
        return x.square().mean(-1, keepdim=True)
    if x.is_cuda:
        return x.var(-1, keepdim=True)
    apart = x - x.mean(-1, keepdim=True)  # torch.var takes four times as long on a CPU
    return apart.square_().sum(-1, keepdim=True) / (x.shape[-1] - 1)
