"""Norm kernels: the norm as one kernel forward and two backward, in Triton, where it can be compiled.

Triton comes with torch's CUDA build for Linux. It compiles with the host's C compiler and Python's headers, which many
hosts lack: then the norm is computed by torch's operations, a tenth of a step slower, and the log says what to install.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Iterator

import torch

log = logging.getLogger(__name__)
BLOCK = 4096  # numbers of x that a program holds at once
MOST_PARTIALS = 512  # programs of the backward pass; each adds up one part of the weight's gradient
PARTIAL_ROWS, PARTIAL_COLUMNS = 64, 32


_forgone: set[torch.device] = set()


def are_usable(device: torch.device) -> bool:
    """Tell whether the kernels run on a device. The first call compiles them; a failure is logged once."""
    return device.type == "cuda" and device not in _forgone and _compiles(device)


def forgo(device: torch.device) -> None:
    """Do without the kernels, because another rank must: all are to compute the same bits."""
    _forgone.add(device)


@functools.cache
def _compiles(device: torch.device) -> bool:
    rows = torch.ones(2, 64, device=device)
    into = torch.empty_like(rows)
    try:
        factors = scale(rows, rows[0], into, centred=True, eps=1e-6)
        scale_backward(rows, rows, rows[0], factors, into, centred=True)
    except Exception as error:  # no Triton, no compiler, no headers, a GPU too old, a cache that cannot be written
        log.warning("the norm's kernels cannot be compiled (%s); training goes on without them, slower. They need "
                    "triton, a C compiler and Python's headers: apt install gcc python%d.%d-dev",
                    f"{type(error).__name__}: {error}".partition("\n")[0][:200], *sys.version_info[:2])
        return False
    return True


def scale(x: torch.Tensor, weight: torch.Tensor, into: torch.Tensor, *, centred: bool, eps: float) -> torch.Tensor:
    """Write the normalised rows of x (..., W) `into` a tensor of the same shape, of any strides but in the rows. Return
    each row's factor (rows,) in float32."""
    rows = _rows(x)
    factors = torch.empty(math.prod(rows), device=x.device, dtype=torch.float32)
    columns, block = _block(x.shape[-1])
    launch("scale_rows", -(-len(factors) // block), x, weight, into, factors, eps, len(factors), *rows[1:],
           *_strides(x), *_strides(into), WIDTH=x.shape[-1], COLUMNS=columns, ROWS=block, CENTRED=centred,
           num_warps=_warps(columns * block))
    return factors


def scale_backward(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, factors: torch.Tensor,
                   into: torch.Tensor, *, centred: bool) -> torch.Tensor:
    """Write the gradient of x `into` a tensor of its shape. Return the gradient of the weight."""
    if gradient.stride(-1) != 1:
        gradient = gradient.contiguous()
    rows, width = _rows(x), x.shape[-1]
    columns, block = _block(width)
    turns = -(-len(factors) // (block * MOST_PARTIALS))
    partials = torch.empty(-(-len(factors) // (block * turns)), width, device=x.device, dtype=torch.float32)
    launch("scale_rows_backward", len(partials), gradient, x, weight, factors, into, partials, len(factors), *rows[1:],
           turns, *_strides(gradient), *_strides(x), *_strides(into), WIDTH=width, COLUMNS=columns, ROWS=block,
           CENTRED=centred, num_warps=_warps(columns * block))
    grad_weight = torch.empty_like(weight)
    launch("sum_partials", -(-width // PARTIAL_COLUMNS), partials, grad_weight, len(partials), WIDTH=width,
           COLUMNS=PARTIAL_COLUMNS, ROWS=PARTIAL_ROWS, num_warps=4)
    return grad_weight


def launch(kernel: str, programs: int, *arguments: torch.Tensor | float, **constants: int) -> None:
    """Launch a kernel of norm_triton."""
    from rdtops.trainer.model import norm_triton

    with torch.cuda.device_of(arguments[0]):
        getattr(norm_triton, kernel)[(programs,)](*arguments, **constants)


def _rows(x: torch.Tensor) -> tuple[int, int, int]:
    """Return the sizes of the axes of rows, as three."""
    assert x.ndim <= 4, x.shape
    assert x.stride(-1) == 1, x.stride()
    first, second, third = (1, 1, 1, *x.shape[:-1])[-3:]
    return first, second, third


def _strides(x: torch.Tensor) -> Iterator[int]:
    yield from (0, 0, 0, *x.stride()[:-1])[-3:]


def _block(width: int) -> tuple[int, int]:
    """Return the columns and rows of a program, powers of 2."""
    columns = 1 << (width - 1).bit_length()
    return columns, max(1, BLOCK // columns)


def _warps(numbers: int) -> int:
    return min(16, max(1, numbers // 512))
