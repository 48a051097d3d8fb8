"""Steps of real trainings, replayed from what they left in their run folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from proofs.drills.training_drill import Life
from rdtops.contract.journal import Event, Journal
from rdtops.contract.run import RunSpec
from rdtops.errors import DataError, RunError, WeightsError
from rdtops.trainer import replay
from rdtops.trainer.replay import Recorded, recorded
from tests.trainer.conftest import SHORT, losses, write_run


def trained(spec: RunSpec) -> RunSpec:
    life = Life(spec)
    try:
        life.wait(lambda: False)
    finally:
        life.kill()
    return spec


@pytest.fixture(scope="module")
def alone(assets, tmp_path_factory) -> RunSpec:
    return trained(write_run(tmp_path_factory.mktemp("alone"), "one", assets, *SHORT, "max_steps=6"))


@pytest.fixture(scope="module")
def together(assets, tmp_path_factory) -> RunSpec:
    """Two processes that accumulate gradients over two micro-batches."""
    return trained(write_run(tmp_path_factory.mktemp("together"), "two", assets, *SHORT, "max_steps=4",
                             "num_processes=2", "batch_size_per_process=2", "gradient_accumulation_steps=2",
                             "checkpoint_every_steps=2"))


def root(spec: RunSpec) -> Path:
    return Path(spec.paths.root)


def test_the_first_step_is_replayed_from_the_pretrained_weights(alone) -> None:
    found = replay.replay(root(alone), 1)
    assert (found.weights, found.is_exact) == ("pretrained", True)
    assert found.loss == losses(alone)[0] == found.recorded.loss


def test_a_step_after_a_checkpoint_has_the_recorded_loss_bit_for_bit(alone) -> None:
    found = replay.replay(root(alone), 5)
    assert (found.weights, found.is_exact, found.notes) == ("step_000004", True, ())
    assert found.loss == losses(alone)[4]


def test_the_step_after_a_checkpoint_has_a_loss_of_its_own_in_the_journal(prepare, train_here) -> None:
    """However seldom losses are told."""
    spec = prepare("seldom", *SHORT, "max_steps=6", "log_every_steps=100")
    assert train_here(spec) == 0
    found = replay.replay(root(spec), 5)
    assert found.recorded == Recorded(found.loss, 5, 5)
    assert replay.replay(root(spec), 3).recorded.first_step == 2


def test_two_processes_with_accumulation_are_replayed_in_one(together) -> None:
    found = replay.replay(root(together), 3)
    assert found.loss == losses(together)[2]
    assert [(s.number, s.rank) for s in found.samples] == [
        (0, 0), (1, 0), (2, 1), (3, 1), (4, 0), (5, 0), (6, 1), (7, 1)]


def test_the_loss_of_the_step_is_the_mean_of_its_samples_by_their_actions(together) -> None:
    found = replay.replay(root(together), 3)
    run = RunSpec.load(root(together) / "config.json")
    lengths = {"demo_0": 46, "demo_1": 47}  # observations that an action follows
    counted = [min(16, lengths[s.episode] - s.observation) for s in found.samples]
    mean = sum(s.loss * steps for s, steps in zip(found.samples, counted, strict=True)) / sum(counted)
    assert mean == pytest.approx(found.loss, rel=1e-5)
    assert len(found.samples) == run.train.global_batch_size


def test_with_other_weights_it_says_which_and_promises_nothing(alone, capsys) -> None:
    assert replay.main([str(root(alone)), "6"]) == 0
    told = capsys.readouterr().out
    assert "step 6, with the weights of step_000004" in told
    assert "not comparable, these weights have learnt up to step 4" in told
    assert replay.main([str(root(alone)), "5", "--checkpoint", "step_000006", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["weights"], told["is_exact"]) == ("step_000006", False)
    assert told["recorded"] == {"loss": losses(alone)[4], "first_step": 5, "last_step": 5}
    assert told["loss"] != told["recorded"]["loss"]


def test_a_replay_changes_nothing_in_the_run_folder(alone) -> None:
    def state() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in root(alone).rglob("*")}

    unfinished = root(alone) / "checkpoints" / "step_000099.tmp"  # the training may be saving right now
    unfinished.mkdir()
    before = state()
    replay.replay(root(alone), 2)
    assert state() == before
    unfinished.rmdir()


@pytest.fixture
def copied(alone, tmp_path) -> Path:
    return Path(shutil.copytree(root(alone), tmp_path / "run"))


@pytest.mark.parametrize(("step", "which", "says"), [
    (0, "", "has the steps 1 to 6, not 0"), (7, "", "not 7"),
    (5, "step_000005", "no valid checkpoint 'step_000005'; it has: step_000004, step_000006")])
def test_what_cannot_be_replayed_is_said(alone, step, which, says) -> None:
    with pytest.raises(RunError, match=says):
        replay.replay(root(alone), step, which=which)


def test_other_data_are_not_replayed_as_if_they_were_the_same(copied, demonstrations) -> None:
    demonstrations.write()
    config = json.loads((copied / "config.json").read_text())
    config["assets"]["dataset"] = str(demonstrations.folder)
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="was not trained on the current files of"):
        replay.replay(copied, 1)


def test_settings_that_changed_since_are_named(copied) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["train"]["learning_rate"] = 5e-4
    (copied / "config.json").write_text(json.dumps(config))
    assert replay.replay(copied, 5).notes == (
        "the settings of this run changed since step_000004: learning_rate; replayed with those in its config.json",)


def test_a_damaged_checkpoint_is_one_line(copied, capsys) -> None:
    victim = copied / "checkpoints" / "step_000004" / "model.safetensors"
    victim.write_bytes(b"\0" * victim.stat().st_size)
    with pytest.raises(WeightsError, match=r"model\.safetensors is zeros in its first 4096 bytes"):
        replay.replay(copied, 5)
    assert replay.main([str(copied), "5"]) == 1
    assert "model.safetensors is zeros in its first 4096 bytes" in capsys.readouterr().err
    assert replay.main([str(copied / "nowhere"), "5"]) == 1


def test_the_journal_s_loss_of_a_step_is_that_of_the_last_time_it_was_done(tmp_path) -> None:
    def events(*told) -> list[Event]:
        return [Event(kind, 0.0, data) for kind, data in told]

    def step(number: int, loss: float) -> tuple[str, dict]:
        return "step", {"step": number, "loss": loss}

    start, again = ("started", {"resumed_from_step": 0}), ("started", {"resumed_from_step": 15})
    told = events(start, step(1, 9.0), step(10, 5.0), step(20, 4.0), again, step(20, 3.0), step(30, 2.0))
    assert recorded(told, 1) == Recorded(9.0, 1, 1)
    assert recorded(told, 10) == Recorded(5.0, 2, 10)
    assert recorded(told, 12) == Recorded(4.0, 11, 20)
    assert recorded(told, 16) == Recorded(3.0, 16, 20)
    assert recorded(told, 31) is None
    assert recorded(Journal(tmp_path / "none").read(), 1) is None
