"""Model FLOPs: the useful arithmetic of a training step, from the shapes of its model, and what a GPU could do.

Two FLOPs a multiply-add of matrix products, convolutions and attention; the backward pass is twice the forward pass,
but for the first layers, whose inputs have no gradients. What is computed again (by gradient checkpointing, or within
attention's backward pass) takes time and does not count. A test compares this with a count of the trainer's own
operations (tests/proofs/test_memory_plan.py).
"""

from __future__ import annotations

import re

from rdtops.contract.models import EXISTING_FRAMES, FRAMES, MODELS, SLOTS, TIME_FEATURES

# dense TFLOP/s of matrix products in bf16 with sums in float32, from data sheets; a name's words as CUDA has them
PEAK_TFLOP_S = {
    "B200": 2250, "H200": 989, "H200 NVL": 835, "H100": 989, "H100 NVL": 835, "H100 PCIe": 756, "H800": 989,
    "H800 PCIe": 756, "H20": 148, "A100": 312, "A800": 312, "A40": 150, "A30": 165, "A10": 125, "L40S": 362,
    "L40": 181, "L4": 121, "RTX A6000": 155, "RTX 6000 Ada": 364, "RTX 5090": 210, "RTX 4090": 165, "RTX 4090 D": 147,
    "RTX 3090": 71, "RTX 3090 Ti": 80}
PEAK_FP16_TFLOP_S = {"V100": 125, "T4": 65}  # of GPUs without bf16


def training_flops(model_name: str, samples: int, *, words: int, draws: int = 1) -> int:
    """Count the forward and backward pass of a micro-batch. `words`: tokens of the longest instruction."""
    model = MODELS[model_name]
    wide, row_count = model.hidden_size, samples * draws * (model.horizon + 3)
    images, languages = samples * EXISTING_FRAMES * model.img_patches, samples * words
    missing = (FRAMES - EXISTING_FRAMES) * model.img_patches  # tokens that all samples share
    blocks = model.depth * row_count * 8 * wide**2  # qkv 3, proj, q, proj, two of the MLP
    keys_values = model.depth // 2 * (images + missing + languages) * 2 * wide**2
    attended = 2 * (model.horizon + 3) + FRAMES * model.img_patches + words  # by a pair of blocks
    attention = model.depth // 2 * row_count * attended * 2 * wide
    first = ((images + model.img_patches) * model.img_width + languages * model.lang_width
             + row_count * 2 * SLOTS + samples * draws * 2 * TIME_FEATURES) * wide
    following = (images + model.img_patches + languages + 3 * row_count + samples * draws * 2) * wide**2
    last = row_count * SLOTS * wide
    return 2 * (3 * (blocks + keys_values + attention + following + last) + 2 * first)


def encoding_flops(model_name: str, frames: int) -> int | None:
    """Count SigLIP's forward pass for so many frames; None where the encoder is not a SigLIP."""
    model = MODELS[model_name]
    if model.vision is None:
        return None
    vision, tokens = model.vision, model.img_patches
    layer = tokens * (4 * vision.width**2 + 2 * vision.width * vision.mlp_width) + 2 * tokens**2 * vision.width
    patches = tokens * vision.width * 3 * vision.patch_edge**2
    return 2 * frames * (vision.depth * layer + patches)


def peak_flops_s(gpu_name: str, mixed_precision: str) -> float | None:
    """Return what a GPU of this name (that of torch.cuda.get_device_name) can do at most; None where it is not known,
    for CPUs, parts of a GPU and float32.

    >>> peak_flops_s("NVIDIA A800-SXM4-80GB", "bf16") / 1e12
    312.0
    """
    known = {"bf16": PEAK_TFLOP_S, "fp16": {**PEAK_TFLOP_S, **PEAK_FP16_TFLOP_S}}.get(mixed_precision, {})
    words = set(re.split(r"[^A-Za-z0-9]+", gpu_name))
    fitting = [name for name in known if set(name.split()) <= words and "MIG" not in words]
    return 1e12 * known[max(fitting, key=len)] if fitting else None
