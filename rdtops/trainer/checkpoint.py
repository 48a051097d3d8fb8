"""Checkpoints on disk: written aside, sealed, renamed, and only then announced. Whatever has no manifest is not one.

    step_002000/
        config.json, model.safetensors      the policy, as RDTPolicy.from_pretrained reads it
        ema/                                its running average, likewise: what evaluation uses
        optimizer.safetensors               both Adam moments and the step of every parameter
        trainer.json                        step, EMA updates, gradient scaler, configuration
        statistics.json, codec.json         what the numbers mean
        manifest.json                       size and MD5 of every file
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rdtops.contract import manifest
from rdtops.contract.run import Checkpoint, checkpoint_name
from rdtops.errors import WeightsError
from rdtops.trainer import weights
from rdtops.trainer.ema import Ema
from rdtops.trainer.rdt import RDTPolicy

log = logging.getLogger(__name__)
EMA, OPTIMIZER, TRAINER = "ema", "optimizer.safetensors", "trainer.json"
STATISTICS, CODEC = "statistics.json", "codec.json"


@dataclass(frozen=True)
class TrainingState:
    """The live objects of a training that a checkpoint keeps."""

    policy: RDTPolicy
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save(checkpoints: Path, step: int, write: Callable[[Path], None]) -> Checkpoint:
    """`write` fills a folder; it gets its name once every byte is on the disk. On an OSError, a full disk above all,
    only this unfinished folder is dropped."""
    final = checkpoints / checkpoint_name(step)
    partial = final.with_name(f"{final.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        sealed = manifest.seal(partial)
        _discard(final)  # there is one only if it was damaged, and the training came by again
        partial.rename(final)
        manifest.flush(checkpoints)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Checkpoint(step, final.name, str(final), sealed.size_bytes, sealed.digest)


def valid(checkpoints: Path) -> list[Checkpoint]:
    """Those with a manifest that fits their files' sizes, oldest first."""
    found = []
    for path in checkpoints.glob("step_*"):
        match = re.fullmatch(r"step_(\d+)", path.name)
        sealed = manifest.read(path) if match else None
        if match and sealed:
            found.append(Checkpoint(int(match[1]), path.name, str(path), sealed.size_bytes, sealed.digest))
    return sorted(found, key=lambda c: c.step)


def newest_intact(checkpoints: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest valid one whose every byte has the digest of its manifest. A damaged one is reported and loses its
    manifest, so that nobody else takes it for a checkpoint."""
    for candidate in reversed(valid(checkpoints)):
        stated = Path(candidate.path) / manifest.NAME
        damage = manifest.differences(candidate.path, manifest.Manifest.from_json(stated.read_text()))
        if not damage:
            return candidate
        report(f"{candidate.name} is damaged and was passed over: {'; '.join(damage)}")
        stated.rename(stated.with_name(f"damaged.{manifest.NAME}"))
    return None


def sweep(checkpoints: Path) -> None:
    """Delete what saves left behind that were cut off by the end of their process."""
    for leftover in checkpoints.glob("step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def prune(checkpoints: Path, keep: int) -> list[str]:
    """Delete the oldest beyond `keep`, never the newest valid one."""
    assert keep >= 1
    surplus = valid(checkpoints)[:-keep]
    for old in surplus:
        _discard(Path(old.path))
    return [old.name for old in surplus]


def _discard(folder: Path) -> None:
    """The manifest goes first: a half-deleted checkpoint must not count as one."""
    (folder / manifest.NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def write_contents(folder: Path, state: TrainingState, trainer: dict[str, Any], statistics: dict[str, Any],
                   codec: dict[str, Any]) -> None:
    state.policy.save_pretrained(folder)
    state.ema.policy.save_pretrained(folder / EMA)
    weights.write_tensors(folder / OPTIMIZER, _moments(state))
    values = {**trainer, "ema_updates": state.ema.updates, "scaler": state.scaler.state_dict()}
    for name, content in ((TRAINER, values), (STATISTICS, statistics), (CODEC, codec)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def read_trainer(folder: Path) -> dict[str, Any]:
    return json.loads((folder / TRAINER).read_text())


def read_codec(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CODEC).read_text())


def restore_optimizer(folder: Path, policy: RDTPolicy, optimizer: torch.optim.Optimizer) -> None:
    """Strict: a resumed training has all its moments or does not start. Raises WeightsError."""
    path = folder / OPTIMIZER
    tensors = weights.read_tensors(path)
    if not tensors and read_trainer(folder)["ema_updates"] == 0:  # fp16 may skip its first steps
        return
    for name, parameter in policy.named_parameters():
        try:
            moments = {part: tensors.pop(f"{part}.{name}") for part in ("step", "exp_avg", "exp_avg_sq")}
        except KeyError as error:
            raise WeightsError(f"{path} lacks {error.args[0]}") from error
        optimizer.state[parameter] = {part: value.to(parameter.device) for part, value in moments.items()}
    if tensors:
        raise WeightsError(f"{path} has moments of parameters that the model does not have: {', '.join(tensors)}")


def restore_ema(folder: Path, ema: Ema, device: torch.device) -> None:
    ema.policy = RDTPolicy.from_pretrained(folder / EMA).to(device).requires_grad_(False).eval()
    ema.updates = int(read_trainer(folder)["ema_updates"])


def _moments(state: TrainingState) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": moments[part]
            for name, parameter in state.policy.named_parameters()
            if (moments := state.optimizer.state.get(parameter))
            for part in ("step", "exp_avg", "exp_avg_sq")}
