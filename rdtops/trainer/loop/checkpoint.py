"""Checkpoints on disk: written under a temporary name, sealed with a manifest, renamed. Without a manifest it is none.

    step_002000/
        config.json, model.safetensors      the policy, as RDTPolicy.from_pretrained reads it
        ema/                                its EMA weights, likewise: what evaluation uses
        optimizer.safetensors               both Adam moments and the step of every parameter
        trainer.json                        step, EMA updates, validation loss, gradient scaler, configuration, cameras
        statistics.json, codec.json         the meaning of the numbers
        assets.json                         MD5 of every file that was read: data, encoders, tokenizer, first weights
        manifest.json                       size and MD5 of every file
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rdtops.contract.run import Checkpoint, Retention, checkpoint_name
from rdtops.errors import WeightsError
from rdtops.hostlib import checkpoints as sealed_checkpoints
from rdtops.hostlib import fields, files, manifest
from rdtops.trainer.data import libero
from rdtops.trainer.data.observation import HISTORY
from rdtops.trainer.distributed.sharding import MOMENTS, Shards
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.model import weights
from rdtops.trainer.model.rdt import RDTPolicy

log = logging.getLogger(__name__)
EMA, OPTIMIZER, TRAINER = "ema", "optimizer.safetensors", "trainer.json"
WEIGHTS, EMA_WEIGHTS = weights.SAFETENSORS, f"{EMA}/{weights.SAFETENSORS}"
CONFIG, EMA_CONFIG = weights.CONFIG, f"{EMA}/{weights.CONFIG}"
STATISTICS, CODEC = "statistics.json", "codec.json"


@dataclass(frozen=True)
class TrainingState:
    """The live objects of a training that a checkpoint saves."""

    policy: RDTPolicy
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: Any  # torch's GradScaler
    shards: Shards

    def tensors(self) -> dict[str, Mapping[str, torch.Tensor]]:
        """Return the tensors by file. They are not copies: the next step changes them. Reading them is a collective of
        all processes, as Shards.weights says."""
        return {WEIGHTS: self.shards.weights(self.policy),
                EMA_WEIGHTS: self.shards.ema_weights(self.ema.policy),
                OPTIMIZER: self.shards.moments(self.policy, self.optimizer)}

    def give(self) -> None:
        """Send this process's part of the tensors while rank 0 reads them."""
        for named in self.tensors().values():
            for _ in named.values():
                pass

    def numbers(self) -> dict[str, Any]:
        """Return their values for trainer.json."""
        return {"ema_updates": self.ema.updates, "scaler": self.scaler.state_dict()}


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint, by file."""

    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    tables: Mapping[str, Any]  # for JSON

    @property
    def size_bytes(self) -> int:
        """Size of the tensors; the tables are small."""
        return sum(t.numel() * t.element_size() for named in self.tensors.values() for t in named.values())

    def write(self, folder: Path) -> None:
        """Write the files. Raise OSError, also when the disk is full."""
        (folder / EMA).mkdir()
        for name, table in self.tables.items():
            (folder / name).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        for name, tensors in self.tensors.items():
            weights.write_tensors(folder / name, tensors)


def save(checkpoints: Path, step: int, write: Callable[[Path], None]) -> Checkpoint:
    """Save a checkpoint. `write` fills a folder, which is renamed once every byte is on the disk. On an OSError, such
    as a full disk, only this unfinished folder is deleted."""
    final = checkpoints / checkpoint_name(step)
    partial = final.with_name(f"{final.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        sealed = manifest.seal(partial)
        _discard(final)  # exists only if it was damaged, and the training reached this step again
        partial.rename(final)
        files.flush(checkpoints)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Checkpoint(step, checkpoint_name(step), str(final), sealed.size_bytes, sealed.digest,
                      sealed_checkpoints.heldout_loss(str(final)))


def valid(checkpoints: Path) -> list[Checkpoint]:
    """List the checkpoints whose manifest matches their files' sizes, oldest first."""
    return [Checkpoint(**found) for found in sealed_checkpoints.listed(str(checkpoints))[0]]


def newest_intact(checkpoints: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest valid checkpoint whose files all match the digests of its manifest. A damaged one is
    reported and loses its manifest, so that nothing uses it as a checkpoint."""
    for candidate in reversed(valid(checkpoints)):
        stated = Path(candidate.path) / manifest.NAME
        try:
            damage = manifest.differences(candidate.path, manifest.stated(candidate.path))
        except (OSError, ValueError) as error:  # changed since it was listed
            damage = [f"{manifest.NAME}: {error}"]
        if not damage:
            return candidate
        report(f"{candidate.name} is damaged and was skipped: {'; '.join(damage)}")
        try:
            stated.rename(stated.with_name(f"damaged.{manifest.NAME}"))
        except OSError as error:  # a file system that became read-only on an error
            report(f"{candidate.name} keeps its manifest: {error}")
    return None


def sweep(checkpoints: Path) -> None:
    """Delete the leftovers of saves that were interrupted."""
    for leftover in checkpoints.glob("step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def prune(checkpoints: Path, keep: Retention) -> list[Checkpoint]:
    """Delete checkpoints that no retention rule keeps. Folders without a valid manifest are ignored."""
    surplus = keep.surplus(valid(checkpoints))
    for old in surplus:
        _discard(Path(old.path))
    return surplus


def seen_by_training(image_size: int) -> dict[str, Any]:
    """Return the camera settings of a training for trainer.json, for comparison in an evaluation."""
    return {"cameras": list(libero.CAMERAS), "history": HISTORY, "image_size": image_size}


def _discard(folder: Path) -> None:
    """Delete a checkpoint, the manifest first: a half-deleted checkpoint must not count as one."""
    (folder / manifest.NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def read_trainer(folder: Path) -> dict[str, Any]:
    """Read trainer.json. Raise WeightsError when a key is missing."""
    return _read_json(folder / TRAINER, ("step", "loss", "config", "ema_updates", "scaler"))


def read_codec(folder: Path) -> dict[str, Any]:
    return _read_json(folder / CODEC, ("name", "hash", "golden"))


def read_statistics(folder: Path) -> dict[str, Any]:
    return _read_json(folder / STATISTICS, ("codec_hash",))


def restore_optimizer(folder: Path, policy: RDTPolicy, optimizer: torch.optim.Optimizer, shards: Shards) -> None:
    """Restore the optimiser, strictly: raise WeightsError unless all moments are complete."""
    path = folder / OPTIMIZER
    tensors = weights.mapped_tensors(path)
    weights.check_finite(tensors, path)
    if not tensors and read_trainer(folder)["ema_updates"] == 0:  # fp16 may skip its first steps
        return
    for name, parameter in policy.named_parameters():
        try:
            moments = {part: tensors.pop(f"{part}.{name}") for part in MOMENTS}
        except KeyError as error:
            raise WeightsError(f"{path} lacks {error.args[0]}") from error
        odd = [part for part, value in moments.items()
               if value.shape != (parameter.shape if part != "step" else torch.Size())]
        if odd:
            raise WeightsError(f"{path}: {odd[0]}.{name} is {tuple(moments[odd[0]].shape)}, its parameter "
                               f"{tuple(parameter.shape)}")
        parts = {part: kept for part, value in moments.items() if (kept := shards.part(value, parameter)) is not None}
        if parts:
            optimizer.state[parameter] = parts
    if tensors:
        raise WeightsError(f"{path} has moments of parameters that are not in the model: {', '.join(tensors)}")


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        values = fields.loads(files.head_of(path, files.TABLE_BYTES))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing:
        raise WeightsError(f"{path} lacks {', '.join(missing)}")
    return values


def restore_ema(folder: Path, ema: Ema) -> None:
    """Restore the EMA weights, whole and in host memory, before they are placed."""
    ema.policy.to_empty(device="meta")  # first: each process of a host has these weights in its memory
    ema.policy = RDTPolicy.from_pretrained(folder / EMA).requires_grad_(False).eval()
    ema.updates = int(read_trainer(folder)["ema_updates"])
