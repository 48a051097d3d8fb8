"""Conditions of the model: an observation as tokens of language, images and state, and their masks.

Shapes: B samples, V history frames, C existing cameras, S pixels, P tokens of an image, W their width,
L language tokens; E frames to encode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rdtops.errors import WeightsError
from rdtops.trainer.data.observation import HISTORY, ObservationBatch
from rdtops.trainer.model.encoders import Vision, as_batch

CAMERAS = 3  # of RDT: external, right wrist, left wrist. LIBERO has no left wrist


class Conditions:
    """The encoded instructions and SigLIP on the training device."""

    def __init__(self, instructions: dict[str, torch.Tensor], vision_folder: str | Path, control_hz: int,
                 device: torch.device, dtype: torch.dtype) -> None:
        self.vision = Vision(vision_folder, device, dtype)
        self.texts, tokens, mask = as_batch(instructions)
        self.lang_tokens, self.lang_mask = tokens.to(device), mask.to(device)
        self.control_hz = control_hz

    def check(self, config: dict[str, Any]) -> None:
        """Raise WeightsError when the encoders do not fit the model's config.json."""
        wanted = {
            "lang_token_dim": self.lang_tokens.shape[-1],
            "img_token_dim": self.vision.width,
            "img_cond_len": HISTORY * CAMERAS * self.vision.tokens,
        }
        wrong = [f"{key} is {config[key]} in config.json, the encoder gives {value}"
                 for key, value in wanted.items() if config[key] != value]
        if self.lang_tokens.shape[1] > config["max_lang_cond_len"]:
            wrong.append(f"an instruction has {self.lang_tokens.shape[1]} tokens, the model takes "
                         f"{config['max_lang_cond_len']}")
        if wrong:
            raise WeightsError("the encoders do not fit the model: " + "; ".join(wrong))

    def of(self, told: ObservationBatch, image_tokens: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the keyword arguments that `loss` and `predict_action` share, on the training device. image_tokens:
        those of the observations, where they were kept."""
        return {
            "lang_tokens": self.lang_tokens[told.instruction_B],
            "lang_attn_mask": self.lang_mask[told.instruction_B],
            "img_tokens": self.image_tokens(told) if image_tokens is None else image_tokens,
            "background_tokens": self.vision.background_PW,  # of the left wrist, in both frames of every sample
            "state_tokens": told.state_B1A,
            "state_mask": told.state_mask_B1A,
            "action_mask": told.action_mask_B1A,
            "ctrl_freqs": torch.full_like(told.sample_B, self.control_hz),
        }

    def image_tokens(self, told: ObservationBatch) -> torch.Tensor:
        """Return the tokens of the images (B, V, C, P, W), the older frame first; background where no frame was
        kept."""
        shape = told.frames_kept_BVC.shape
        tokens = self.vision.background_PW.repeat(told.frames_kept_BVC.numel(), 1, 1)
        if len(told.encoded_E):
            tokens[told.encoded_E] = self._encoded(told)
        if len(told.cached_F):
            tokens[told.cached_F] = told.features_FPW
        return tokens.unflatten(0, shape)

    def _encoded(self, told: ObservationBatch) -> torch.Tensor:
        """Return the tokens of the frames that come as pixels: (E, P, W)."""
        frames = told.frames_BVCSS3
        jitter = told.jitter_B3[:, None, None].expand(*frames.shape[:3], 3)  # one lighting for a sample
        return self.vision.encode(frames.flatten(0, 2)[told.encoded_E], jitter.flatten(0, 2)[told.encoded_E])
