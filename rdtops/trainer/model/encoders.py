"""Frozen encoders: T5 for instructions, SigLIP for camera frames. Both are loaded from local folders, never from a hub.

Instructions are encoded once per distinct text and cached on disk; if the cache has all, T5 is not even imported.
Frames are encoded on the training device, from uint8.

Shapes: B samples, L language tokens, D their width, P tokens of an image, W their width, S pixels of a stored edge,
R pixels of an edge of SigLIP's input.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as serialized
from torch.nn import functional

from rdtops.errors import WeightsError
from rdtops.hostlib import files, hub_cache
from rdtops.trainer import libraries
from rdtops.trainer.data.observation import NO_INSTRUCTION
from rdtops.trainer.model import encoder_folders, weights

log = logging.getLogger(__name__)
PIXEL_MEAN = PIXEL_STD = 0.5  # SigLIP's preprocessing: [0, 1] to [-1, 1]
_HEAD_BYTES = 1 << 20
GROUP = 4  # frames that SigLIP encodes at a time: those of one sample


def encode_instructions(folder: str | Path, instructions: Iterable[str], cache: str | Path,
                        device: torch.device) -> dict[str, torch.Tensor]:
    """Encode each instruction and NO_INSTRUCTION: text -> tokens (L, D) in float32 on the CPU.

    `cache` holds one file per encoder and text, named by the content of both. Raise WeightsError when the encoder
    cannot be loaded.
    """
    folder = encoder_folders.home(Path(folder), "T5")
    encoder = identity(folder)
    paths = {text: _cached(Path(cache), encoder, text) for text in sorted({*instructions, NO_INSTRUCTION})}
    known = {text: tokens for text, path in paths.items() if (tokens := _recall(path)) is not None}
    absent = [text for text in paths if text not in known]
    if absent:
        log.info("encoding %d instructions with %s", len(absent), folder)
        for text, tokens_LD in _encode(folder, absent, device).items():
            _keep(paths[text], tokens_LD)
            known[text] = tokens_LD
    _check_different(known, folder)
    return known


def _check_different(known: dict[str, torch.Tensor], folder: Path) -> None:
    """Check that no two instructions have the same tokens, also of a cache that an earlier version has filled."""
    texts: dict[bytes, str] = {}
    for text, tokens_LD in known.items():
        same = texts.setdefault(tokens_LD.numpy().tobytes(), text)
        if same != text:
            raise WeightsError(f"{folder} encodes {same!r} and {text!r} alike: its tokenizer is not that of its T5",
                               remedy=f"{encoder_folders.DEPLOY}   # and delete cache/instructions in the workspace")


class Vision:
    """The frozen vision encoder: the one of VISION_ENCODERS that config.json names."""

    def __init__(self, folder: str | Path, device: torch.device, dtype: torch.dtype) -> None:
        folder = encoder_folders.home(Path(folder), "SigLIP")
        self.device, self.dtype = device, dtype
        tower = _loader(folder)(folder, dtype)
        self._tower = tower.to(device, dtype).eval().requires_grad_(False)
        self.edge, self.tokens, self.width = tower.edge, tower.tokens, tower.width
        # replaces a missing camera, as in the published training: the mean colour, 127 of 255
        grey = torch.full((1, self.edge, self.edge, 3), 127, dtype=torch.uint8)
        with encoder_folders.refused(f"the SigLIP of {folder} cannot encode an image"):
            self.background_PW = self.encode(grey)[0]
        weights.check_finite({"a grey image": self.background_PW}, f"what the SigLIP of {folder} makes of an image")

    @torch.no_grad()
    def encode(self, frames_uint8: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        """Encode frames (B, S, S, 3) uint8, jitter (B, 3): factors for brightness, contrast, saturation. Return (B, P,
        W).

        SigLIP always gets GROUP frames, the last group padded: so the number of frames changes neither its kernels nor
        the last bit of a result. Its activations are those of one group.
        """
        if not len(frames_uint8):
            return torch.empty(0, self.tokens, self.width, device=self.device, dtype=self.dtype)
        images = frames_uint8.to(self.device)
        if jitter is not None:
            images = relit(images, jitter.to(self.device))
        images = resized(images, self.edge)
        groups = [self._encode_group(images[at:at + GROUP]) for at in range(0, len(images), GROUP)]
        return torch.cat(groups)[:len(images)]

    def _encode_group(self, images_uint8: torch.Tensor) -> torch.Tensor:
        return self._tokens(functional.pad(normalised(images_uint8), (0, 0, 0, 0, 0, 0, 0, GROUP - len(images_uint8))))

    def _tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self._tower(pixels.to(self.dtype))


class _SigLIP(torch.nn.Module):
    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipVisionModel

        super().__init__()
        encoder_folders.check_files(folder)
        encoder_folders.check_pixels(folder)
        config = _loaded(SiglipVisionConfig, folder)
        encoder_folders.check_config(config, folder, "SigLIP")
        self._model = _loaded(SiglipVisionModel, folder, config=config, output_loading_info=True,
                              **libraries.weights_in(dtype), **libraries.siglip_weights(folder))
        encoder_folders.check_finite(self._model, folder)
        self.edge = config.image_size
        self.tokens = (config.image_size // config.patch_size) ** 2
        self.width = config.hidden_size

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._model(pixel_values=pixels).last_hidden_state


# `model_type` of config.json -> loader of the folder as a module from images (B, 3, edge, edge) in [-1, 1] to tokens
# (B, P, W), with the attributes edge, tokens (P) and width (W). A program may add its own type.
VISION_ENCODERS: dict[str, Callable[[Path, torch.dtype], Any]] = {"siglip": _SigLIP, "siglip_vision_model": _SigLIP}


def _loader(folder: Path) -> Callable[[Path, torch.dtype], Any]:
    return VISION_ENCODERS[_check_kind(folder, VISION_ENCODERS, "vision")]


def _check_kind(folder: Path, known: Iterable[str], what: str) -> str:
    """Return the model_type of a folder. Raise WeightsError for one that is not known."""
    kind = weights.read_config(folder).get("model_type")
    if kind not in list(known):
        raise WeightsError(f"{folder / weights.CONFIG} describes no known {what} encoder: its model_type is {kind!r}, "
                           f"known are {', '.join(sorted(known))}", remedy=encoder_folders.DEPLOY)
    return str(kind)


def relit(frames_uint8: torch.Tensor, factors_B3: torch.Tensor) -> torch.Tensor:
    """Apply `jittered` to frames (B, S, S, 3) of bytes before they are enlarged: a ninth of the work."""
    images = jittered(frames_uint8.permute(0, 3, 1, 2) / 255, factors_B3)
    return images.mul_(255).round_().byte().permute(0, 2, 3, 1)


def resized(frames_uint8: torch.Tensor, edge: int) -> torch.Tensor:
    """Resize frames (B, S, S, 3) to (B, 3, edge, edge), uint8: bicubic with antialiasing, as SigLIP's processor does it
    with PIL. On a CPU the result is PIL's; elsewhere torch has no bicubic of bytes, and floats are rounded where PIL
    rounds (tests/trainer/model/test_pixels.py states the difference)."""
    images = frames_uint8.permute(0, 3, 1, 2)
    if images.shape[-1] == edge:
        return images
    if images.device.type == "cpu":
        return functional.interpolate(images, (edge, edge), mode="bicubic", antialias=True)
    return _resized_as_float(images, edge)


def _resized_as_float(images: torch.Tensor, edge: int) -> torch.Tensor:
    """Resize rows, then columns, with whole numbers in between, as PIL does it."""
    wide = images.float()
    for size in ((wide.shape[-2], edge), (edge, edge)):
        wide = functional.interpolate(wide, size, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return wide.byte()


def normalised(images_uint8: torch.Tensor) -> torch.Tensor:
    """Normalise bytes of any shape to SigLIP's input: float32 from -1 to 1."""
    return torch.mul(images_uint8, 1 / (255 * PIXEL_STD)).sub_(PIXEL_MEAN / PIXEL_STD)


def jittered(images: torch.Tensor, factors_B3: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast and saturation of each of the images (B, 3, R, R) in [0, 1]; 1 changes nothing."""
    brightness, contrast, saturation = (f[:, None, None, None] for f in factors_B3.unbind(1))
    images = images * brightness
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * contrast
    grey = images.mean(dim=1, keepdim=True)
    return (grey + (images - grey) * saturation).clamp(0, 1)


def _encode(folder: Path, texts: list[str], device: torch.device) -> dict[str, torch.Tensor]:
    """Load T5, use it and free it: t5-v1_1-xxl takes 9.5 GB in bf16."""
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    _check_kind(folder, encoder_folders.TEXT_ENCODERS, "text")
    encoder_folders.check_files(folder)
    config = _loaded(T5Config, folder)
    encoder_folders.check_config(config, folder, "T5")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32  # T5 overflows in fp16
    tokenizer = _loaded(libraries.tokenizer_class(folder), folder)
    encoder_folders.check_tokenizer(tokenizer, config, folder)
    encoder = _loaded(T5EncoderModel, folder, config=config, output_loading_info=True, **libraries.weights_in(dtype))
    encoder = encoder.to(device).eval()
    encoder_folders.check_finite(encoder, folder)
    encoded = {}
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([encoder_folders.ids(tokenizer, text, folder)], device=device)
            with encoder_folders.refused(f"the T5 of {folder} cannot encode {text!r}"):
                encoded[text] = encoder(input_ids=ids).last_hidden_state[0].float().cpu()
            weights.check_finite({text: encoded[text]}, f"what the T5 of {folder} makes of an instruction")
    del encoder
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return encoded


def _loaded(kind: Any, folder: str | Path, **options: Any) -> Any:
    """Call `kind.from_pretrained` strictly: it would fill missing weights with random numbers and only log it."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()  # every process would list SigLIP's text model, which we do not need
    with encoder_folders.refused(f"{kind.__name__} cannot be loaded from {folder}"):
        loaded = kind.from_pretrained(**{"pretrained_model_name_or_path": folder, "local_files_only": True, **options})
    if not options.get("output_loading_info"):
        return loaded
    model, report = loaded
    encoder_folders.check_report(report, Path(folder), kind.__name__)
    return model


def identity(folder: Path) -> str:
    """Return a digest of an encoder without reading 45 GB: of the name, size, beginning and end of every file
    that counts."""
    digest = hashlib.md5()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and hub_cache.counts(str(folder), p.name)):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_HEAD_BYTES))
            if path.stat().st_size > 2 * _HEAD_BYTES:
                file.seek(-_HEAD_BYTES, os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()


def _cached(cache: Path, encoder: str, text: str) -> Path:
    return cache / f"{hashlib.md5(f'{encoder} {text}'.encode()).hexdigest()}.safetensors"


def _recall(path: Path) -> torch.Tensor | None:
    try:
        tokens_LD = weights.read_tensors(path)["tokens"]
    except (WeightsError, KeyError):  # missing or damaged: encode it again
        return None
    is_sound = tokens_LD.dim() == 2 and tokens_LD.dtype == torch.float32 and weights.is_finite(tokens_LD)
    return tokens_LD if is_sound else None


def _keep(path: Path, tokens_LD: torch.Tensor) -> None:
    """Write the file atomically: two runs may share a cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, serialized({"tokens": tokens_LD.contiguous()}))


def as_batch(embeddings: dict[str, torch.Tensor]) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Return texts, their tokens padded to the longest (texts, L, D), and a boolean mask (texts, L)."""
    texts = sorted(embeddings)
    longest = max(len(embeddings[t]) for t in texts)
    tokens = torch.stack([functional.pad(embeddings[t], (0, 0, 0, longest - len(embeddings[t]))) for t in texts])
    lengths = np.array([len(embeddings[t]) for t in texts])
    return texts, tokens, torch.from_numpy(np.arange(longest)[None] < lengths[:, None])
