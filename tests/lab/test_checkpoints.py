"""inv checkpoints: whether the files are what the manifest says, cheaply, or by reading every byte."""

import json
import os

import pytest

from rdtops.contract import manifest
from tests.lab.commandline import CommandLine
from tests.lab.watched import Alive

pytestmark = pytest.mark.lab


@pytest.fixture
def inv(lab_hosts, tmp_path):
    return CommandLine(tmp_path, lab_hosts)


@pytest.fixture
def run(lab):
    """With two whole checkpoints, one that is being written, and a folder that is none of ours."""
    with Alive(lab, "lab", "20991231-000000-saved-0001") as alive:
        for step, loss in ((10, 0.5), (20, 0.25)):
            folder = alive.folder / "checkpoints" / f"step_0000{step}"
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(os.urandom(5000))
            (folder / "trainer.json").write_text(json.dumps({"heldout_loss": loss}))
            manifest.seal(folder)
            for file in folder.iterdir():
                os.utime(file, (1_700_000_000, 1_700_000_000))  # not of this moment: such a sum is remembered
        (alive.folder / "checkpoints" / "step_000030").mkdir()
        yield alive


def test_files_are_verified_once_and_damage_is_found_where_it_is(inv, run):
    line = f"checkpoints --host lab --run {run.run_id}"
    rows = inv.good(f"{line} --json").rows()
    assert [(r["state"], r["best"], r["latest"]) for r in rows] == [("unverified", False, False),
                                                                   ("unverified", True, True)]
    shown = inv.good(line).out
    assert "not verified yet" in shown
    assert f"inv checkpoints --verify --host lab --run {run.run_id}" in shown
    assert "not counted: step_000030: there is no manifest.json yet" in shown
    assert [r["state"] for r in inv.good(f"{line} --verify --json").rows()] == ["verified", "verified"]
    assert [r["state"] for r in inv.good(f"{line} --json").rows()] == ["verified", "verified"]

    weights = run.folder / "checkpoints" / "step_000020" / "model.safetensors"
    weights.write_bytes(bytes(5000))  # as long as before: only reading it tells
    assert [r["state"] for r in inv.good(f"{line} --json").rows()] == ["verified", "unverified"]
    inv.refused(f"{line} --verify", 1, "damaged", "step_000020: model.safetensors: MD5 differs",
                f"inv fetch-results --host lab --run {run.run_id} --checkpoint 10")


def test_a_file_that_became_shorter_is_named_and_the_checkpoint_counts_no_more(inv, run):
    weights = run.folder / "checkpoints" / "step_000020" / "model.safetensors"
    os.truncate(weights, 100)
    shown = inv.good(f"checkpoints --host lab --run {run.run_id}").out
    assert "not counted: step_000020: model.safetensors: 100 bytes instead of 5000" in shown
