"""Published implementation, rewritten, where ours differs: `inv bench trainer` measures against it, and tests compare
numbers with it. No training uses it.

Shapes: B samples, V history frames (2), C cameras with the missing one (3), R pixels of an edge for SigLIP.
"""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

from rdtops.trainer.data import libero
from rdtops.trainer.model.conditions import CAMERAS
from rdtops.trainer.model.norm import NORM_EPS, Norm
from rdtops.trainer.model.rdt import RDTPolicy

BACKGROUND = (127, 127, 127)  # SigLIP's mean colour


class FloatSamples:
    """Item n is sample n with its frames as SigLIP's input, (V x C, 3, R, R) in float32.

    For every sample the file is opened, its episode's numbers are read, and each of six images goes through PIL and
    the processor separately. Half of the images are augmented by ColorJitter and corruption.
    """

    def __init__(self, dataset: libero.Dataset, edge: int, *, augment: bool, horizon: int = 64) -> None:
        try:
            from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil as Processor
        except ModuleNotFoundError:  # transformers 4 has no other
            from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor as Processor

        self.dataset, self.augment, self.horizon = dataset, augment, horizon
        self.processor = Processor(size={"height": edge, "width": edge})
        self.background = np.full((edge, edge, 3), BACKGROUND, np.uint8)

    def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
        episode, now = self.dataset.locate(sample)
        with h5py.File(Path(self.dataset.folder) / episode.file, "r", locking=False) as file:
            demo = file["data"][episode.name]
            actions, joints = demo["actions"][()], demo["obs/joint_states"][()]
            frames = [demo["obs"][camera][max(now - 1, 0):now + 1] for camera in libero.CAMERAS]
        if self.dataset.upside_down[episode.file]:
            frames = [images[:, ::-1] for images in frames]
        padded = np.zeros((self.horizon, 128), np.float32)
        following = actions[now + episode.lead:][:self.horizon]
        padded[:len(following), :7] = following
        state = np.zeros((1, 128), np.float32)
        state[0, :7] = joints[now]
        return {"images": torch.stack([self._image(image) for image in self._seen(frames, now)]),
                "actions": torch.from_numpy(padded), "state": torch.from_numpy(state),
                "mask": torch.ones(128), "norm": torch.ones(128)}

    def _seen(self, frames: list[np.ndarray], now: int) -> list[np.ndarray]:
        """List the older frame first, in each the cameras in turn."""
        absent = [self.background] * (CAMERAS - len(frames))
        before = [images[0] for images in frames] if now else [self.background] * len(frames)
        return [*before, *absent, *(images[-1] for images in frames), *absent]

    def _image(self, pixels: np.ndarray) -> torch.Tensor:
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(pixels))
        if self.augment and random.random() > 0.5:  # noqa: S311
            image = _augmented(image)
        return self.processor.preprocess(_padded_to_square(image), return_tensors="pt")["pixel_values"][0]


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([s[name] for s in samples]) for name in samples[0]}


def _padded_to_square(image: Any) -> Any:
    from PIL import Image

    if image.width == image.height:
        return image
    edge = max(image.size)
    square = Image.new(image.mode, (edge, edge), BACKGROUND)
    square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    return square


def _augmented(image: Any) -> Any:
    kind = random.choice(("corrupt", "colour", "both"))  # noqa: S311
    if kind != "corrupt":
        image = _colour_jittered(image)
    return image if kind == "colour" else _corrupted(image)


def _colour_jittered(image: Any) -> Any:
    """Apply ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.03) to a PIL image."""
    from PIL import Image, ImageEnhance

    changes = [(ImageEnhance.Brightness, 0.3), (ImageEnhance.Contrast, 0.4), (ImageEnhance.Color, 0.5)]
    random.shuffle(changes)
    for kind, strength in changes:
        image = kind(image).enhance(random.uniform(1 - strength, 1 + strength))  # noqa: S311
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, np.int16) + round(random.uniform(-0.03, 0.03) * 255)) % 256  # noqa: S311
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


def _corrupted(image: Any) -> Any:
    """Apply one of the cheap corruptions; the published list has slower ones (snow, fog, elastic transforms)."""
    from PIL import Image, ImageFilter

    kind = random.choice(("noise", "blur", "jpeg"))  # noqa: S311
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 1.5)))  # noqa: S311
    if kind == "jpeg":
        content = io.BytesIO()
        image.save(content, "JPEG", quality=random.randint(20, 60))  # noqa: S311
        return Image.open(content).convert("RGB")
    noisy = np.asarray(image, np.float32) + np.random.default_rng(random.getrandbits(32)).normal(
        0, 20, (image.height, image.width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


class PlainNorm(Norm):
    """The same numbers as Norm, with every intermediate result saved for the backward pass."""

    def forward(self, x, dtype: torch.dtype | None = None) -> torch.Tensor:
        wide = x.float()
        power = wide.var(-1, keepdim=True) if self.kind == "timm_1_0_3" else wide.square().mean(-1, keepdim=True)
        return (wide * torch.rsqrt(power + NORM_EPS) * self.weight).to(dtype or x.dtype)


def plain(policy: RDTPolicy) -> RDTPolicy:
    """Return the policy itself, with plain norms."""
    for module in policy.modules():
        if isinstance(module, Norm):
            module.__class__ = PlainNorm
    return policy


def whole_image_tokens(tokens_BVCPW: torch.Tensor, background_PW: torch.Tensor) -> torch.Tensor:
    """Return the sequence of all image tokens, the background's of every sample in their places: (B, I, W)."""
    samples, frames, cameras = tokens_BVCPW.shape[:3]
    background = background_PW.expand(samples, frames, CAMERAS - cameras, -1, -1)
    return torch.cat([tokens_BVCPW, background], dim=2).flatten(1, 3)


@torch.no_grad()
def average(averaged: nn.Module, current: nn.Module, decay: float) -> None:
    """The published EMA: parameter by parameter, two passes over each."""
    for ours, theirs in zip(averaged.modules(), current.modules(), strict=True):
        for kept, new in zip(ours.parameters(recurse=False), theirs.parameters(recurse=False), strict=True):
            kept.mul_(decay)
            kept.add_(new.data, alpha=1 - decay)
