"""A training with each codec, from the first step to a checkpoint that says what its numbers mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdtops.trainer.data.actions import CODECS, codec
from tests.trainer.conftest import events

TWO_STEPS = ("max_steps=2", "checkpoint_every_steps=2", "sample_every_steps=0", "num_processes=1")


@pytest.mark.parametrize("name", [n for n in CODECS if n != "seed_compat_m"])
def test_a_training_keeps_its_codec_in_its_checkpoint(prepare, train_here, name) -> None:
    spec = prepare(f"with_{name}", *TWO_STEPS, f"codec={name}")
    assert train_here(spec) == 0
    folder = Path(spec.paths.checkpoints) / "step_000002"
    codec(name).check_golden(json.loads((folder / "codec.json").read_text()))
    spread = np.asarray(json.loads((folder / "statistics.json").read_text())["action"]["std"])
    assert set(np.flatnonzero(spread)) <= set(np.flatnonzero(codec(name).action_mask))


def test_a_resume_with_another_codec_is_refused_with_what_differs(prepare, train_here) -> None:
    spec = prepare("resumed", *TWO_STEPS)
    assert train_here(spec) == 0
    config = json.loads(Path(spec.paths.config).read_text())
    config["train"] |= {"codec": "absolute_pose", "max_steps": 4}
    Path(spec.paths.config).write_text(json.dumps(config))
    assert train_here(spec) == 1
    error = events(spec, "failed")[0].data
    assert "name delta_velocity in the checkpoint, absolute_pose here" in error["error"]
    assert error["remedy"] == "--set codec=delta_velocity"
