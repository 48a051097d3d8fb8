"""GPU memory: whether it is enough for a training without gradient checkpointing."""

from __future__ import annotations

import logging

import torch

from rdtops.contract import memory_plan
from rdtops.contract.config import AUTO, TrainConfig
from rdtops.trainer.distributed.ranks import Ranks

log = logging.getLogger(__name__)


def gradient_checkpointing(config: TrainConfig, ranks: Ranks) -> bool:
    """Tell whether to use gradient checkpointing. `auto` is decided by the GPU that has least free memory, the same in
    every process; the numbers that are learnt do not depend on it, so that a resume may decide otherwise."""
    if ranks.device.type != "cuda":
        return config.gradient_checkpointing is True
    free_bytes = torch.tensor([torch.cuda.mem_get_info(ranks.device)[0]], dtype=torch.float64, device=ranks.device)
    least_bytes = int(ranks.gather(free_bytes).min())
    made = memory_plan.decided(config, least_bytes)
    needed_gib, free_gib = memory_plan.plan(made).total / 2**30, least_bytes / 2**30
    log.info("GPU memory: %.1f GiB planned, %.1f GiB free, gradient_checkpointing = %s%s", needed_gib, free_gib,
             str(made.gradient_checkpointing).lower(), " (auto)" if config.gradient_checkpointing == AUTO else "")
    if needed_gib > free_gib:
        log.warning("GPU memory: the plan takes more than is free; inv check names settings that fit")
    return made.gradient_checkpointing is True
