"""The noise of training (DDPM, squared cosine) and the solver of inference (DPM-Solver++), both from diffusers.

Only the two schedulers are imported: the diffusers package as a whole would cost every start some seconds more.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch


def training_noise(settings: dict[str, Any]):
    """The scheduler whose `add_noise(action, noise, timesteps)` makes noisy actions. `settings` is the model's
    `noise_scheduler` table."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    with torch.device("cpu"):  # the model around it may be under construction on the meta device
        return DDPMScheduler(
            num_train_timesteps=settings["num_train_timesteps"],
            beta_schedule=settings["beta_schedule"],
            prediction_type=settings["prediction_type"],
            clip_sample=settings["clip_sample"],
        )


def solver(settings: dict[str, Any]):
    """A solver, set to the model's number of inference steps. It keeps state, so every prediction takes a new one."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=settings["num_train_timesteps"],
        beta_schedule=settings["beta_schedule"],
        prediction_type=settings["prediction_type"],
    )
    with warnings.catch_warnings():
        # diffusers hands tensors to numpy functions; numpy 2 complains, but test_rdt.py finds the numbers right
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        scheduler.set_timesteps(settings["num_inference_timesteps"])
    return scheduler
