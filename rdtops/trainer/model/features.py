"""Vision features: SigLIP's output for every frame, cached on disk. Without augmentation it is the same in every step.

One file per dataset, encoder and number format, in the workspace's cache; all processes of a training fill it before
the first step, and later trainings use it. Its numbers are the encoder's own, bit for bit. The file is mapped, so the
processes of a host share its pages in the page cache.

Shapes: B samples, V history frames, C existing cameras, P tokens of an image, W their width.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError
from rdtops.hostlib import files
from rdtops.trainer.data import libero
from rdtops.trainer.model.encoders import Vision, identity

if TYPE_CHECKING:
    from rdtops.trainer.distributed.ranks import Ranks

log = logging.getLogger(__name__)
VERSION = 1  # of the preprocessing of a frame before the encoder
PARTIAL = ".tmp"
_CHUNK = 32  # samples whose frames are read and encoded together


class Features:
    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *,
                 write: bool = False) -> None:
        """Map the file. shape: (samples, C, P, W)."""
        self.device = device
        self._table = torch.from_file(str(path), shared=write, size=math.prod(shape), dtype=dtype).view(shape)

    def of(self, sample_B: torch.Tensor) -> torch.Tensor:
        """Return the features of the previous and the current frame: (B x V x C, P, W), on the device. Before the first
        frame, as with the pixels, some other frame takes its place: Batch.frames_kept says that it does not count."""
        now_B = sample_B.cpu()
        numbers_BV = torch.stack([(now_B - 1).clamp_min(0), now_B], dim=1)
        return self._table[numbers_BV].flatten(0, 2).to(self.device, non_blocking=True)

    def fill(self, dataset: libero.Dataset, vision: Vision, rank: int, world: int) -> None:
        """Encode this process's share of the samples."""
        frames = libero.Frames(dataset)
        share = range(rank, len(dataset), world)
        for done in range(0, len(share), _CHUNK):
            chunk = share[done:done + _CHUNK]
            images = torch.from_numpy(np.stack([frames.read(*dataset.locate(sample)) for sample in chunk]))
            self._table[list(chunk)] = vision.encode(images.flatten(0, 1)).cpu().unflatten(0, images.shape[:2])
            if done // _CHUNK % 50 == 49:
                log.info("vision features: %d of %d samples", done * world, len(dataset))
        frames.close()


def prepare(spec: RunSpec, dataset: libero.Dataset, vision: Vision, ranks: Ranks) -> Features | None:
    """Return the features of the dataset, computed if necessary; None when the run does not use them. Raise
    ConfigError when they would take more space than the run allows or the disk has."""
    if not spec.train.vision_cache_gib:
        return None
    shape = (len(dataset), len(libero.CAMERAS), vision.tokens, vision.width)
    size_bytes = math.prod(shape) * vision.dtype.itemsize
    folder = Path(spec.workspace) / "cache" / "features"
    path = folder / _key(dataset, Path(spec.assets["vision_encoder"]), vision)
    partial = path.with_name(path.name + PARTIAL)
    if ranks.once(lambda: _begin(path, partial, size_bytes, spec.train.vision_cache_gib << 30)):
        ranks.together(lambda: Features(partial, shape, vision.dtype, vision.device, write=True).fill(
            dataset, vision, ranks.rank, ranks.world))
        ranks.once(lambda: files.put_in_place(partial, path))  # flushes the mapping too
    return Features(path, shape, vision.dtype, vision.device)


def _key(dataset: libero.Dataset, encoder: Path, vision: Vision) -> str:
    """Return a digest of everything that the numbers depend on: a GPU's differ from a CPU's in the last bits."""
    samples = [(e.file, e.name, e.starts, _stored(dataset, e.file)) for e in dataset.episodes]
    facts = [VERSION, sorted(dataset.md5.items()), samples, identity(encoder), str(vision.dtype), vision.device.type]
    return hashlib.md5(json.dumps(facts).encode()).hexdigest()


def _stored(dataset: libero.Dataset, file: str) -> bool | str:
    """Return how a file's images are stored: whether upside down, as caches have it since there were these two."""
    images = dataset.images[file]
    return images == libero.UPSIDE_DOWN if images in (libero.UPSIDE_DOWN, libero.UPRIGHT) else images


def _begin(path: Path, partial: Path, size_bytes: int, limit_bytes: int) -> bool:
    """Make space and an empty file. Return False when the features exist already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size == size_bytes:
        path.touch()  # mark it as most recently used
        log.info("vision features: %s, %.2f GiB, cached", path, size_bytes / 2**30)
        return False
    if size_bytes > limit_bytes:
        raise ConfigError(f"the vision features of this dataset take {size_bytes / 2**30:.1f} GiB, vision_cache_gib "
                          f"allows {limit_bytes >> 30}",
                          remedy=f"inv train --set vision_cache_gib={math.ceil(size_bytes / 2**30)}")
    _prune(path.parent, limit_bytes - size_bytes)
    _allocate(partial, size_bytes)
    log.info("vision features: encoding every frame once into %s, %.2f GiB of at most %d", path, size_bytes / 2**30,
             limit_bytes >> 30)
    return True


def _allocate(partial: Path, size_bytes: int) -> None:
    """Allocate all blocks of the file: a disk that fills up under a mapping would kill the process without a
    message."""
    try:
        with partial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
    except OSError as error:
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(partial.parent).free
        raise ConfigError(f"the vision features of this dataset take {size_bytes / 2**30:.1f} GiB, {partial.parent} "
                          f"has {free / 2**30:.1f} GiB free: {error}",
                          remedy="inv train --set vision_cache_gib=0   # or free some space there") from error


def _prune(folder: Path, room_bytes: int) -> None:
    """Delete the least recently used files until the rest takes at most `room_bytes`, and incomplete ones: a
    workspace has one training at a time. A process that has mapped a file keeps its content."""
    for old in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True):
        room_bytes -= old.stat().st_size
        if room_bytes < 0 or old.suffix == PARTIAL:
            log.info("vision features: %s deleted, to stay within vision_cache_gib", old)
            old.unlink()
