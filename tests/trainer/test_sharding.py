"""Adam's moments shared out over two processes: the same training, and the same checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rdtops.contract.config import override, preset
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError
from rdtops.trainer import sharding
from tests.trainer.conftest import SHORT, losses, write_run
from tests.trainer.test_replay import trained
from tests.trainer.test_train import digests

TWO = (*SHORT, "num_processes=2", "max_steps=6", "checkpoint_every_steps=3")


@pytest.fixture(scope="module")
def runs(assets, tmp_path_factory) -> dict[str, RunSpec]:
    folder = tmp_path_factory.mktemp("sharding")
    return {kind: trained(write_run(folder, kind, assets, *TWO, f"sharding={kind}")) for kind in ("none", "zero1")}


def test_a_shared_out_training_learns_the_same_bits(runs) -> None:
    assert losses(runs["zero1"]) == losses(runs["none"])
    for step in (3, 6):
        assert digests(runs["zero1"], step) == digests(runs["none"], step)
        assert len(digests(runs["zero1"], step)) == 3


@pytest.mark.parametrize(("begun", "resumed"), [
    ("zero1", "none"), pytest.param("none", "zero1", marks=pytest.mark.slow),
    pytest.param("zero1", "zero1", marks=pytest.mark.slow)])
def test_a_checkpoint_is_resumed_with_and_without(runs, assets, tmp_path, begun, resumed) -> None:
    spec = write_run(tmp_path, "resumed", assets, *TWO, f"sharding={resumed}")
    halfway = Path(runs[begun].paths.checkpoints) / "step_000003"
    shutil.copytree(halfway, Path(spec.paths.checkpoints) / halfway.name)
    trained(spec)
    assert digests(spec, 6) == digests(runs["none"], 6)


def test_every_process_gets_a_nearly_equal_share(assets) -> None:
    shapes = json.loads((Path(__file__).parent / "fixtures/rdt_shapes/rdt-1b.shapes.json").read_text())
    parameters = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes.values()]
    owned = sharding._shared_out(parameters, 8)
    sizes = [sum(p.numel() for p in part) for part in owned.values()]
    assert sum(sizes) == sum(p.numel() for p in parameters)
    assert max(sizes) < 1.02 * sum(sizes) / 8
    assert sum(len(part) for part in owned.values()) == len(parameters)


def test_fp16_and_sharding_are_refused_together() -> None:
    with pytest.raises(ConfigError, match="sharding needs mixed_precision bf16 or no"):
        override(preset("tiny"), ["sharding=zero1", "mixed_precision=fp16"])
