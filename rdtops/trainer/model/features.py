"""Vision features: SigLIP's output for every frame, cached on disk. For a sample that is not augmented it is the same
in every step.

One file per dataset, encoder and number format, in the workspace's cache; all processes of a training fill it before
the first step, and later trainings use it. Its numbers are the encoder's own, bit for bit.

Shapes: C existing cameras, P tokens of an image, W their width.
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
from rdtops.hostlib.provenance import DATASET, VISION_ENCODER, Provenance
from rdtops.trainer.data import libero
from rdtops.trainer.data.feature_file import FeatureFile
from rdtops.trainer.model.encoders import Vision

if TYPE_CHECKING:
    from rdtops.trainer.distributed.ranks import Ranks

log = logging.getLogger(__name__)
VERSION = 1  # of the preprocessing of a frame before the encoder
PARTIAL = ".tmp"
_CHUNK = 32  # samples whose frames are read and encoded together


def prepare(spec: RunSpec, dataset: libero.Dataset, origin: Provenance, vision: Vision,
            ranks: Ranks) -> FeatureFile | None:
    """Return the features of the dataset, computed if necessary; None when the run does not use them. Raise
    ConfigError when they would take more space than the run allows or the disk has."""
    if not spec.train.vision_cache_gib:
        return None
    shape = (len(dataset), len(libero.CAMERAS), vision.tokens, vision.width)
    size_bytes = math.prod(shape) * vision.dtype.itemsize
    folder = Path(spec.workspace) / "cache" / "features"
    path = folder / _key(dataset, origin, vision)
    partial = path.with_name(path.name + PARTIAL)
    if ranks.once(lambda: _begin(path, partial, size_bytes, spec.train.vision_cache_gib << 30)):
        ranks.together(lambda: fill(FeatureFile(partial, shape, vision.dtype), dataset, vision, ranks.rank,
                                    ranks.world))
        ranks.once(lambda: files.put_in_place(partial, path))  # flushes the mapping too
    return FeatureFile(path, shape, vision.dtype)


def fill(file: FeatureFile, dataset: libero.Dataset, vision: Vision, rank: int, world: int) -> None:
    """Encode this process's share of the samples."""
    table, frames = file.mapped(write=True), libero.Frames(dataset)
    share = range(rank, len(dataset), world)
    for done in range(0, len(share), _CHUNK):
        chunk = share[done:done + _CHUNK]
        images = torch.from_numpy(np.stack([frames.read(*dataset.locate(sample)) for sample in chunk]))
        table[list(chunk)] = vision.encode(images.flatten(0, 1)).cpu().unflatten(0, images.shape[:2])
        if done // _CHUNK % 50 == 49:
            log.info("vision features: %d of %d samples", done * world, len(dataset))
    frames.close()


def _key(dataset: libero.Dataset, origin: Provenance, vision: Vision) -> str:
    """Return a digest of everything that the numbers depend on: a GPU's differ from a CPU's in the last bits."""
    samples = [(e.file, e.name, e.starts, _stored(dataset, e.file)) for e in dataset.episodes]
    facts = [VERSION, origin.identity(DATASET, VISION_ENCODER), samples, str(vision.dtype), vision.device.type]
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
