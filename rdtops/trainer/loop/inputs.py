"""Inputs of a training: data, statistics, encoded instructions, weights, and the checkpoint to resume from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rdtops.contract.run import Checkpoint, RunSpec
from rdtops.errors import ConfigError, WeightsError
from rdtops.hostlib import provenance
from rdtops.hostlib.provenance import Provenance
from rdtops.trainer.data import isolation, libero, slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.loop import asset_changes, checkpoint
from rdtops.trainer.model import encoders
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy


@dataclass(frozen=True)
class Inputs:
    """The inputs that rank 0 finds for all ranks."""

    dataset: libero.Dataset
    statistics: dict[str, Any]
    instructions: dict[str, torch.Tensor]
    resume: Checkpoint | None
    provenance: Provenance


def find(spec: RunSpec, device: torch.device, warn: Callable[..., None]) -> Inputs:
    """Read, check and encode the inputs; write statistics.json and assets.json into the run folder. Raise an
    RdtopsError, also for other data or encoders than those of the checkpoint."""
    dataset = isolation.index(asset(spec, "dataset"), declared=declared(spec))
    checkpoints = Path(spec.paths.checkpoints)
    checkpoint.sweep(checkpoints)
    resume = checkpoint.newest_intact(checkpoints, warn)
    origin = asset_changes.of_training(spec, dataset, Path(resume.path) if resume else None)
    if resume:
        asset_changes.check_resume(spec, Path(resume.path), origin, warn)
    texts = instructions(spec, dataset, device, origin)
    provenance.write(Path(spec.paths.root), origin)
    return Inputs(dataset, _statistics(spec, dataset, warn), texts, resume, origin)


def instructions(spec: RunSpec, dataset: libero.Dataset, device: torch.device,
                 origin: Provenance) -> dict[str, torch.Tensor]:
    """Return the encoded instructions, from the workspace's cache where it has them."""
    cache = Path(spec.workspace) / "cache" / "instructions"
    return encoders.encode_instructions(asset(spec, "text_encoder"), dataset.instructions, cache, device, origin)


def declared(spec: RunSpec) -> libero.Declared:
    return libero.Declared.of(spec.train)


def asset(spec: RunSpec, role: str) -> str:
    if role not in spec.assets:
        raise ConfigError(f"the run's config.json names no folder for {role}", remedy="inv deploy; inv train")
    return spec.assets[role]


def policy(spec: RunSpec, resume: Checkpoint | None, *, gradient_checkpointing: bool) -> RDTPolicy:
    """Build the policy from the checkpoint, the pretrained weights or, from scratch, the seed: the same in every
    process. `gradient_checkpointing`: as decided, where the run says auto."""
    if resume:
        made = RDTPolicy.from_pretrained(resume.path)
    elif spec.train.from_scratch:
        torch.manual_seed(spec.train.seed)
        made = RDTPolicy(ARCHITECTURES[spec.train.model])
    else:
        made = RDTPolicy.from_pretrained(asset(spec, "pretrained"))
    _check_architecture(made.config, spec.train.model)
    made.model.gradient_checkpointing = gradient_checkpointing
    return made.train()


def _statistics(spec: RunSpec, dataset: libero.Dataset, warn: Callable[[str], None]) -> dict[str, Any]:
    """Return the statistics deployed beside the data if they match; otherwise compute them, which takes a second."""
    using = codec(spec.train.codec)
    deployed = Path(asset(spec, "dataset")) / slot_statistics.NAME
    fitting = slot_statistics.load_fitting(deployed, dataset, using)
    if fitting is None and deployed.exists():
        warn(f"{deployed} belongs to other data or another codec; statistics were recomputed")
    found = fitting or slot_statistics.compute(dataset, using)
    slot_statistics.write(Path(spec.paths.root) / slot_statistics.NAME, found)
    return found


def _check_architecture(config: dict[str, Any], model: str) -> None:
    wanted = ARCHITECTURES[model]
    keys = ("rdt", "pred_horizon", "action_dim", "state_token_dim", "lang_token_dim", "img_token_dim", "img_cond_len")
    wrong = [f"{key} is {config[key]}, {model} has {wanted[key]}" for key in keys if config[key] != wanted[key]]
    if wrong:
        raise WeightsError(f"the weights are not those of {model}: {'; '.join(wrong)}",
                           remedy="inv train --set model=...")
