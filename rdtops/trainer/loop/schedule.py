"""Learning rate schedule: a function of the optimiser step alone."""

from __future__ import annotations

import math

from rdtops.contract.config import TrainConfig


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 1: linear warm-up, then constant or half a cosine down to 0."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(config.max_steps - config.warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * min(done, 1))) / 2
