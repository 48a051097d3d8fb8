"""Checkpoints: list the checkpoints in a folder, the complete ones with their fields. Standard library, Python 3.8:
sent with host programs."""

from __future__ import annotations

import os
from typing import Any

from rdtops.hostlib import fields, files, manifest, names

TRAINER = "trainer.json"


def listed(folder: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the valid checkpoints as fields of rdtops.contract.run.Checkpoint, by step, and the names of the other
    entries."""
    whole, unfinished = [], []
    for name in ls(folder):
        found = _described(folder, name)
        if found:
            whole.append(found)
        else:
            unfinished.append(name)
    return sorted(whole, key=lambda c: c["step"]), unfinished


def _described(folder: str, name: str) -> dict[str, Any] | None:
    try:
        step = names.step_of(names.checkpoint_name(name))
    except names.BadName:
        return None
    path = os.path.join(folder, name)
    sealed = manifest.read(path)
    if sealed is None:
        return None
    return {"step": step, "name": name, "path": path, "size_bytes": sealed.size_bytes, "digest": sealed.digest,
            "heldout_loss": heldout_loss(path)}


def heldout_loss(checkpoint: str) -> float | None:
    """Return the validation loss that the trainer measured; None where it did not, or where it is not a number."""
    try:
        state = fields.table(fields.loads(files.text_of(os.path.join(checkpoint, TRAINER))))
    except ValueError:
        return None
    return fields.number(state.get("heldout_loss"))


def ls(folder: str) -> list[str]:
    """Return the sorted names in a folder; none where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
