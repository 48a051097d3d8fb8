"""Ceilings: what the card itself reaches. Everything that is expected of a step is derived from these two numbers."""

from __future__ import annotations

import torch

from proofs.gpu_bench.card import Card, CardRow

SQUARE = 8192
COPIED = 1 << 30  # bytes


def measure(card: Card) -> None:
    square, copied = (SQUARE, COPIED) if card.is_gpu else (512, 1 << 24)
    left, right = (torch.randn(square, square, device=card.device, dtype=torch.bfloat16) for _ in range(2))
    card.gemm_flops_s = 2 * square**3 / card.seconds(lambda: left @ right)
    source = torch.empty(copied, device=card.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    card.copy_bytes_s = 2 * copied / card.seconds(lambda: target.copy_(source))
    card.tell(CardRow("ceilings", "card", card.name, how=f"torch {torch.__version__}, CUDA {torch.version.cuda}"))
    card.tell(CardRow("ceilings", f"product of two {square} x {square} in bf16", round(card.gemm_flops_s / 1e12, 1),
                      "TFLOP/s"))
    card.tell(CardRow("ceilings", "copy within the card", round(card.copy_bytes_s / 1e9, 1), "GB/s",
                      how="read and written"))
    if card.is_gpu:
        host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
        there = torch.empty_like(host, device=card.device)
        to_host = host.nbytes / card.seconds(lambda: host.copy_(there, non_blocking=True))
        to_card = host.nbytes / card.seconds(lambda: there.copy_(host, non_blocking=True))
        card.tell(CardRow("ceilings", "to pinned host memory", round(to_host / 1e9, 1), "GB/s",
                          how="a checkpoint's copy; 16 bytes a parameter"))
        card.tell(CardRow("ceilings", "from pinned host memory", round(to_card / 1e9, 1), "GB/s", how="batches"))
