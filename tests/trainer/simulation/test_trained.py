"""Checkpoints as something that drives: ours and the layout before rdtops; what does not fit is refused with the
difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rdtops.contract.evaluation import EvalSpec, Protocol, checked, checkpoint_folder
from rdtops.errors import ConfigError, WeightsError
from rdtops.hostlib import manifest, provenance
from rdtops.trainer.data.actions import CODECS
from rdtops.trainer.simulation import trained
from tests.trainer.conftest import SHORT, flip, signals_as_they_were, write_run


@pytest.fixture(scope="module")
def made(assets, tmp_path_factory) -> Path:
    """A checkpoint of a real training."""
    from rdtops.trainer import train

    spec = write_run(tmp_path_factory.mktemp("workspace"), "trained", assets, *SHORT, "max_steps=2")
    with signals_as_they_were():
        assert train.main([str(spec.paths.config)]) == 0
    return Path(spec.paths.checkpoints) / "step_000002"


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / made.name))


@pytest.fixture
def old_layout(made, tmp_path) -> Path:
    """checkpoint-30000/ema/model.safetensors, as accelerate.save_model leaves it: config.json beside ema/, no codec."""
    (tmp_path / "checkpoint-30000" / "ema").mkdir(parents=True)
    shutil.copy(made / "ema" / "model.safetensors", tmp_path / "checkpoint-30000" / "ema")
    shutil.copy(made / "config.json", tmp_path / "checkpoint-30000")
    return tmp_path / "checkpoint-30000"


def changed(folder: Path, file: str, **values) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    manifest.seal(folder)


@pytest.mark.parametrize("part", ["", "ema", "ema/model.safetensors"])
def test_a_checkpoint_is_found_by_any_of_its_names_and_says_all_itself(made, part):
    policy = trained.find(made / part)
    assert (policy.folder, policy.codec.name, policy.codec_stated_by) == (made, "delta_velocity", trained.CHECKPOINT)
    assert (policy.horizon, policy.image_size, policy.step, policy.notes) == (16, 128, 2, [])
    assert policy.load().config["pred_horizon"] == 16


def test_the_layout_before_rdtops_needs_its_codec_named_and_the_report_says_so(old_layout):
    with pytest.raises(WeightsError, match=r"has no codec\.json") as caught:
        trained.find(old_layout)
    assert "--codec seed_compat" in caught.value.remedy
    policy = trained.find(old_layout / "ema" / "model.safetensors", "seed_compat")
    assert (policy.codec, policy.codec_stated_by) == (CODECS["seed_compat"], trained.COMMAND_LINE)
    assert any("from the command line" in note for note in policy.notes)
    assert sum(p.numel() for p in policy.load().parameters()) > 100_000
    (old_layout / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no config\.json, neither in ema/ nor beside it"):
        trained.find(old_layout, "seed_compat")


def test_another_codec_is_refused_with_the_difference(folder):
    with pytest.raises(WeightsError, match=r"name delta_velocity in the checkpoint, absolute_pose here"):
        trained.find(folder, "absolute_pose")
    assert trained.find(folder, "delta_velocity").codec.name == "delta_velocity"
    changed(folder, "codec.json", velocity_gain=2.0)
    with pytest.raises(WeightsError, match=r"velocity_gain 2\.0 in the checkpoint, 1\.0 here"):
        trained.find(folder)
    changed(folder, "codec.json", name="polar")
    with pytest.raises(WeightsError, match=r"'polar', which this code does not have; it has: delta_velocity"):
        trained.find(folder)


def test_other_cameras_and_other_images_are_refused_with_the_difference(folder):
    seen = json.loads((folder / "trainer.json").read_text())["seen"]
    assert seen == {"cameras": ["agentview_rgb", "eye_in_hand_rgb"], "history": 2, "image_size": 128}
    changed(folder, "trainer.json", seen={**seen, "cameras": ["agentview_rgb"], "history": 1})
    with pytest.raises(WeightsError, match=r"cameras \['agentview_rgb'\] in training, .*; history 1 in training, 2"):
        trained.find(folder)
    changed(folder, "trainer.json", seen={**seen, "image_size": 64})
    with pytest.raises(WeightsError, match="images of 64 pixels in training, 128 or 256 here"):
        trained.find(folder)
    changed(folder, "trainer.json", seen={**seen, "image_size": 256})
    assert trained.find(folder).image_size == 256


def test_a_checkpoint_older_than_this_field_is_taken_as_all_were_then(folder):
    changed(folder, "trainer.json", seen={})
    assert trained.find(folder).image_size == 128


def test_files_of_two_trainings_are_refused(folder):
    changed(folder, "statistics.json", codec_hash="other")
    with pytest.raises(WeightsError, match="files of two trainings are mixed"):
        trained.find(folder)


def test_a_damaged_checkpoint_and_a_folder_that_is_none_are_refused(folder, tmp_path):
    (folder / "codec.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"no valid manifest\.json"):
        trained.find(folder)
    with pytest.raises(WeightsError, match="no folder ema/"):
        trained.find(tmp_path)


def test_more_actions_than_are_predicted_cannot_be_executed(made):
    policy = trained.find(made)
    policy.check_horizon(16)
    with pytest.raises(WeightsError, match="predicts 16 actions at a time; 17 cannot be executed") as caught:
        policy.check_horizon(17)
    assert "--exec-horizon 16" in caught.value.remedy


# the wish ------------------------------------------------------------------------------------------------------------

def test_a_wish_that_makes_no_sense_names_all_that_is_wrong():
    with pytest.raises(ConfigError) as caught:
        checked(Protocol("libero_10", trials=51, max_steps=2000, exec_horizon=0, codec="polar"))
    for words in ("--trials 51: must be from 1 to 50", "--max-steps 2000: must be from 1 to 990", "--exec-horizon 0",
                  "--codec polar"):
        assert words in caught.value.message
    assert checked(Protocol("libero_10")).max_steps == 520


def test_the_same_wish_has_the_same_folder_whatever_the_number_of_processes():
    asked = {"run_id": "r", "host": "h", "created_at": "now", "workspace": "/w", "release": "/r", "snapshot": "s",
             "checkpoint": "/w/runs/r/checkpoints/step_000002", "digest": "d", "assets": {}, "device": "cpu",
             "mixed_precision": "no"}
    spec = EvalSpec(**asked, protocol=Protocol(trials=3))
    assert spec.name == EvalSpec(**{**asked, "created_at": "later"}, protocol=Protocol(trials=3), processes=8).name
    assert spec.name != EvalSpec(**asked, protocol=Protocol(trials=4)).name
    assert spec.name != EvalSpec(**{**asked, "digest": "e"}, protocol=Protocol(trials=3)).name
    assert spec.name.startswith("step_000002-libero_90-")
    assert EvalSpec.from_json(spec.to_json()) == spec
    assert str(spec.paths.report) == f"/w/runs/r/eval/{spec.name}/report.json"
    with pytest.raises(ConfigError, match=r"not an evaluation's eval\.json"):
        EvalSpec.from_json('{"protocol": {}}')


def test_a_checkpoint_s_folder_is_told_from_any_of_its_files():
    for path in ("/c/checkpoint-30000", "/c/checkpoint-30000/ema", "/c/checkpoint-30000/ema/model.safetensors"):
        assert checkpoint_folder(path) == "/c/checkpoint-30000"


# the encoders that it was trained with ------------------------------------------------------------------------------

def test_the_encoders_of_the_training_are_recognised(made, assets):
    here, notes = trained.compare_encoders(trained.find(made), assets)
    assert (sorted(here.parts), notes) == (["text_encoder", "tokenizer", "vision_encoder"], ())


@pytest.mark.parametrize(("role", "file", "part"), [
    ("vision_encoder", "model.safetensors", "vision_encoder"), ("text_encoder", "model.safetensors", "text_encoder"),
    ("text_encoder", "tokenizer.json", "tokenizer")])
def test_another_encoder_is_refused_with_the_difference_and_accepted_when_it_is_named(
        made, assets, tmp_path, role, file, part):
    other = Path(shutil.copytree(assets[role], tmp_path / "other"))
    flip(other / file)
    policy, there = trained.find(made), {**assets, role: str(other)}
    words = rf"{part} other: 1 of \d files? differs: {file} \(MD5 \w+ in training, "
    with pytest.raises(ConfigError, match=words) as told:
        trained.compare_encoders(policy, there)
    assert told.value.remedy.startswith(f"inv eval --set {role}=other   #")
    with pytest.raises(ConfigError):
        trained.compare_encoders(policy, there, "vision_encoder" if role == "text_encoder" else "text_encoder")
    _, (note,) = trained.compare_encoders(policy, there, role)
    assert note.startswith(f"evaluated with other encoders than in training, as requested: {part} other: ")


def test_a_checkpoint_from_before_is_evaluated_with_a_note(folder, old_layout, assets):
    (folder / provenance.NAME).unlink()
    manifest.seal(folder)
    for path, name in ((folder, ""), (old_layout, "seed_compat")):
        _, (note,) = trained.compare_encoders(trained.find(path, name), assets)
        assert "could not be compared" in note
