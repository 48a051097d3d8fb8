"""Diffusion: the noise schedule of training (DDPM, squared cosine) and the solver (DPM-Solver++), from diffusers.

Only the two schedulers are imported: importing the whole diffusers package would slow down every start by some seconds.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch


def training_noise(settings: dict[str, Any]):
    """Return the scheduler whose `add_noise(action, noise, timesteps)` makes noisy actions. `settings`: the model's
    `noise_scheduler` table."""
    with torch.device("cpu"):  # the model around it may be under construction on the meta device
        # the import, too: with torch 2.6 it brings torch._dynamo, which computes
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        return DDPMScheduler(
            num_train_timesteps=settings["num_train_timesteps"],
            beta_schedule=settings["beta_schedule"],
            prediction_type=settings["prediction_type"],
            clip_sample=settings["clip_sample"],
        )


def solver(settings: dict[str, Any]):
    """Return a solver with the model's number of inference steps. It has state, so every prediction takes a new one."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=settings["num_train_timesteps"],
        beta_schedule=settings["beta_schedule"],
        prediction_type=settings["prediction_type"],
    )
    with warnings.catch_warnings():
        # diffusers hands tensors to numpy functions; numpy 2 warns, but test_rdt.py shows that the numbers are correct
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        scheduler.set_timesteps(settings["num_inference_timesteps"])
    return scheduler
