"""The trainer's own files, broken in every way: what can be made again is, what cannot is refused in our words."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from proofs.staging.corruptions import WAYS, corrupt
from rdtops.errors import WeightsError
from rdtops.trainer.data import slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.loop import checkpoint
from rdtops.trainer.loop.trackers import MetricsFile
from rdtops.trainer.model import encoders, weights
from rdtops.trainer.simulation.trials import SUCCESS, Trial, TrialLog

pytestmark = pytest.mark.timeout(60)  # somebody waits for a FIFO otherwise
CODEC = codec("delta_velocity")
NUMBERS = {kind: {what: [0.0] * 128 for what in slot_statistics.NUMBERS} for kind in slot_statistics.KINDS}
STATISTICS = {"files": {}, "codec": CODEC.name, "codec_hash": CODEC.hash, "episodes": 1, "steps": 2, "observed": [],
              **NUMBERS}


@pytest.mark.parametrize("way", WAYS)
def test_broken_statistics_are_not_used_and_it_is_said_why(tmp_path, way):
    path = tmp_path / slot_statistics.NAME
    slot_statistics.write(path, STATISTICS)
    assert slot_statistics.standing(tmp_path, CODEC).why_not == ""
    corrupt(path, way)
    assert slot_statistics.standing(tmp_path, CODEC).why_not
    assert slot_statistics.load_fitting(path, SimpleNamespace(md5={}), CODEC) is None


@pytest.mark.parametrize("way", WAYS)
def test_of_a_broken_trials_file_the_whole_lines_count(tmp_path, way):
    log = TrialLog(tmp_path / "trials.jsonl")
    log.append(Trial("A_close", 0, SUCCESS, 40))
    corrupt(log.path, way)
    assert all(isinstance(trial.steps, int) for trial in log.ended().values())
    if way not in ("a folder", "a FIFO"):
        log.append(Trial("A_close", 1, SUCCESS, 50))
        assert ("A_close", 1) in log.ended()


@pytest.mark.parametrize("way", WAYS)
def test_curves_go_on_whatever_their_file_held(tmp_path, way):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n')
    corrupt(path, way)
    if way == "a folder":
        with pytest.raises(OSError, match="directory"):  # Trackers tells it once, and leaves the curves out
            MetricsFile(path, steps_done=2)
        return
    MetricsFile(path, steps_done=2).log({"loss": 0.5}, step=3)
    assert json.loads(path.read_text().splitlines()[-1])["step"] == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [checkpoint.TRAINER, checkpoint.CODEC, weights.CONFIG])
def test_a_checkpoint_with_a_broken_table_is_refused_by_name(tmp_path, name, way):
    read = {checkpoint.TRAINER: checkpoint.read_trainer, checkpoint.CODEC: checkpoint.read_codec,
            weights.CONFIG: weights.read_config}[name]
    (tmp_path / name).write_text(json.dumps(dict.fromkeys(
        ("step", "loss", "config", "ema_updates", "scaler", "name", "hash", "golden"), 1), indent=1))
    assert read(tmp_path)
    corrupt(tmp_path / name, way)
    if way in ("wrong kinds", "not UTF-8"):
        return  # a table of other values, or of other names: whoever uses it refuses those
    with pytest.raises(WeightsError, match=name):
        read(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_instruction_is_encoded_anew(tmp_path, way):
    path = tmp_path / "x.safetensors"
    encoders._keep(path, torch.ones(3, 4))
    assert encoders._recall(path).shape == (3, 4)
    corrupt(path, way)
    found = encoders._recall(path)
    assert found is None or found.dim() == 2


def test_an_instruction_of_another_shape_is_encoded_anew(tmp_path):
    weights.write_tensors(tmp_path / "x.safetensors", {"tokens": torch.ones(3)})
    assert encoders._recall(tmp_path / "x.safetensors") is None
