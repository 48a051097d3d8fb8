"""GPU memory: what a training will take of it, decided before the first tensor, and what it has taken."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from rdtops.contract import memory_plan
from rdtops.contract.config import AUTO, TrainConfig
from rdtops.trainer.distributed.ranks import Ranks

log = logging.getLogger(__name__)


def decided(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """Return the configuration with `gradient_checkpointing = auto` decided by the GPU that has least free memory, the
    same in every process. The numbers that are learnt do not depend on it."""
    if ranks.device.type != "cuda":
        return replace(config, gradient_checkpointing=config.gradient_checkpointing is True)
    free_bytes = torch.tensor([torch.cuda.mem_get_info(ranks.device)[0]], dtype=torch.float64, device=ranks.device)
    least_bytes = int(ranks.gather(free_bytes).min())
    made = memory_plan.decided(config, least_bytes)
    needed_gib, free_gib = memory_plan.plan(made).total / 2**30, least_bytes / 2**30
    log.info("GPU memory: %.1f GiB planned, %.1f GiB free, gradient_checkpointing = %s%s", needed_gib, free_gib,
             str(made.gradient_checkpointing).lower(), " (auto)" if config.gradient_checkpointing == AUTO else "")
    if needed_gib > free_gib:
        log.warning("GPU memory: the plan takes more than is free; inv check names settings that fit")
    return made
