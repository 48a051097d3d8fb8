"""Precision: the number formats of a training (`mixed_precision`), and the settings for bit-equal results."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager

import torch

from rdtops.contract import variables
from rdtops.trainer import libraries

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return the autocast context of a precision, one of DTYPES."""
    if precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def make_reproducible() -> None:
    """Make each operation a function of its inputs, on every device. Call it before the process group is joined: NCCL's
    communicators are made for the mode of that moment.

    Strictly: with `warn_only` flash and efficient attention keep their backward pass of atomic additions. An operation
    that has no deterministic form raises RuntimeError; a training has none (tests/trainer/model/test_determinism.py).
    """
    os.environ.setdefault(_CUBLAS, variables.value(_CUBLAS))
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    libraries.leave_uninitialized()
