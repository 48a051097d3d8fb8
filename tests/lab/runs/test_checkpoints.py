"""inv checkpoints: whether the files are what the manifest says, cheaply, or by reading every byte."""

import json
import os

import pytest

from rdtops.hostlib import manifest
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
    assert "sizes only" in shown
    assert f"inv checkpoints --verify --host lab --run {run.run_id}" in shown
    assert "not counted: step_000030: no manifest.json yet" in shown
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


# --- fetch-results

def test_which_checkpoints_come_home_is_asked_for_and_a_rerun_sends_nothing(inv, run):
    """The release of this run is long gone from the host: nothing of it is needed."""
    run.journal.append("step", step=20, loss=0.3)
    run.ends()
    line = f"fetch-results --host lab --run {run.run_id} --into {inv.results}"
    home = inv.results / "lab" / run.run_id
    inv.good(f"{line} --checkpoint none")
    assert not (home / "checkpoints").exists()
    assert "finished on lab" in (home / "README.md").read_text()
    assert inv.good(f"{line} --checkpoint best --json").rows()[0]["checkpoint"]["step"] == 20
    (row,) = inv.good(f"{line} --checkpoint all --json").rows()
    assert [c["step"] for c in row["checkpoints"]] == [10, 20]
    assert row["sent_files"] == 3  # of the other checkpoint
    for step in (10, 20):
        name = f"checkpoints/step_0000{step}"
        assert manifest.differences(home / name, manifest.read(run.folder / name)) == []
    assert "nothing to transfer" in inv.good(f"{line} --checkpoint all").out
    page = (home / "report.html").read_text()
    assert "step_000020" not in page  # the Journal of this run tells of none
    assert inv.good(f"report --run {home}", RDTOPS_HOSTS="/nowhere").out.startswith(f"written {home}/report.html")


def test_every_run_of_a_host_comes_home_with_one_command(inv, run, lab):
    with Alive(lab, "lab", "20991231-000000-other-0002") as other:
        other.ends(1)
        rows = inv.good(f"fetch-results --host lab --run all --checkpoint none --into {inv.results} --json").rows()
        assert {run.run_id, other.run_id} <= {row["run_id"] for row in rows}
        assert (inv.results / "lab" / other.run_id / "report.html").exists()


def test_a_run_that_cannot_be_fetched_does_not_keep_the_others(inv, run, lab):
    with Alive(lab, "lab", "20200101-000000-broken-0003") as broken:
        broken.ends(1)
        os.mkfifo(broken.folder / "train.log")
        done = inv(f"fetch-results --host lab --run all --checkpoint none --into {inv.results} --json")
        assert (done.code, "1 runs were not fetched: 20200101-000000-broken-0003" in done.err) == (1, True)
        assert run.run_id in [row["run_id"] for row in done.rows()]
        assert (inv.results / "lab" / run.run_id / "report.html").exists()
