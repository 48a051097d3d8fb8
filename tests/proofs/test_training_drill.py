"""The proof that a training survives kill -9, in its short form; `inv drill training` is the long one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from proofs.drills import training_drill
from proofs.drills.training_drill import SAVING, STARTING, TRAINING, DrillSubject
from rdtops.contract.run import RunSpec
from rdtops.hostlib import manifest
from rdtops.ui.repository import Drilled


@pytest.fixture(scope="module")
def drilled(assets, tmp_path_factory) -> tuple[Drilled, Path]:
    folder = tmp_path_factory.mktemp("drill")
    said: list[str] = []
    return training_drill.drill_training(folder, assets, 3, said.append, steps=40, processes=1), folder


def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(drilled) -> None:
    drill, _ = drilled
    assert drill.problems == ()
    assert {row.moment: row.kills for row in drill.rows} == {STARTING: 1, TRAINING: 1, SAVING: 1}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_killed_together_end_with_the_same_bytes(assets, tmp_path) -> None:
    drill = training_drill.drill_training(tmp_path, assets, 5, lambda _: None, steps=60)
    assert (drill.problems, sum(row.kills for row in drill.rows)) == ((), 5)


def subject(folder: Path, name: str) -> DrillSubject:
    return DrillSubject(RunSpec.load(folder / "runs" / name / "config.json"))


def test_the_drill_sees_a_single_wrong_bit(drilled, tmp_path) -> None:
    _, folder = drilled
    shutil.copytree(folder / "runs", tmp_path / "runs")
    config = tmp_path / "runs" / "killed" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "workspace": str(tmp_path)}))
    victim = tmp_path / "runs/killed/checkpoints/step_000040/ema/model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    manifest.seal(victim.parents[1])
    left_alone, killed = subject(folder, "left-alone"), subject(tmp_path, "killed")
    assert training_drill.differences(left_alone, killed, 0) == [
        "ema/model.safetensors: its MD5 is not that of the undisturbed training"]
    journal = tmp_path / "runs/killed/journal.jsonl"
    lines = journal.read_text().splitlines()
    again = next(json.loads(line) for line in reversed(lines) if json.loads(line)["kind"] == "step")
    journal.write_text("\n".join([*lines, json.dumps({**again, "loss": again["loss"] * (1 + 1e-12)})]) + "\n")
    assert training_drill.differences(left_alone, killed, 1)[1:] == [
        "the loss differs in 1 steps, first in step 40", "only 0 of 1 kills came before the end"]


def test_a_training_that_fails_by_itself_is_no_kill(assets, tmp_path) -> None:
    with pytest.raises(training_drill.StepFailed, match=r"(?s)failed by itself.*no \*\.hdf5 file"):
        training_drill.drill_training(tmp_path, {**assets, "dataset": str(tmp_path)}, 1, print, steps=2, processes=1)
