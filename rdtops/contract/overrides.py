"""Overrides: what the supervisor of a run changed in its configuration, because memory ran out.

A step still learns from the same samples: micro-batches are smaller and there are more of them. The changes are in
overrides.json of the run folder; config.json keeps what was requested.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from rdtops.contract.config import TrainConfig, checked
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError
from rdtops.hostlib import fields, files

NAME: Final = "overrides.json"
_CHANGED = ("batch_size_per_process", "gradient_accumulation_steps", "gradient_checkpointing")


def smaller(config: TrainConfig) -> TrainConfig | None:
    """Return the same training in less memory: half the micro-batch (or its largest divisor below half) and as many
    more of them, then gradient checkpointing. None when nothing is left to reduce."""
    size = config.batch_size_per_process
    if size > 1:
        part = next(n for n in range(size // 2, 0, -1) if size % n == 0)
        return replace(config, batch_size_per_process=part,
                       gradient_accumulation_steps=config.gradient_accumulation_steps * size // part)
    return None if config.gradient_checkpointing is True else replace(config, gradient_checkpointing=True)


def changes(asked: TrainConfig, used: TrainConfig) -> dict[str, int | bool | str]:
    """Return the settings that differ, by name."""
    return {name: getattr(used, name) for name in _CHANGED if getattr(used, name) != getattr(asked, name)}


def write(root: Path, asked: TrainConfig, used: TrainConfig) -> None:
    """Write overrides.json, whole or not at all. It applies only to the configuration it was made for."""
    files.write_whole(root / NAME, json.dumps({"of": asked.digest, **changes(asked, used)}, indent=1) + "\n")


def used(spec: RunSpec) -> TrainConfig:
    """Return the configuration that a run trains with: as requested, with the changes of overrides.json."""
    try:
        values = fields.table(fields.loads(files.text_of(Path(spec.paths.root) / NAME)))
    except ValueError:
        return spec.train
    if values.get("of") != spec.train.digest:
        return spec.train  # it was resumed with other settings since
    try:
        found = checked(replace(spec.train, **{name: values[name] for name in _CHANGED if name in values}))
    except ConfigError as error:
        raise ConfigError(f"{spec.paths.root / NAME}: {error.message}",
                          remedy=f"rm {spec.paths.root / NAME}") from error
    if found.global_batch_size != spec.train.global_batch_size:
        raise ConfigError(f"{spec.paths.root / NAME} changes the global batch from "
                          f"{spec.train.global_batch_size} to {found.global_batch_size}",
                          remedy=f"rm {spec.paths.root / NAME}")
    return found
