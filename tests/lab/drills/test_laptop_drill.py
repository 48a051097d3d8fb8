"""The proof that a killed laptop costs nothing, in its short form; `inv drill laptop` is the long one."""

import json
from pathlib import Path

import pytest

from proofs.drills import laptop_drill as drill
from proofs.staging.ground import lab_in

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def drilled(lab, named_assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("laptops")
    lab.up()
    return drill.drill_laptop(lab, folder / "laptops", named_assets, 4, lambda _: None, seed=3), folder / "laptops"


def test_laptops_killed_at_remote_calls_end_with_one_training_and_whole_results(drilled):
    found, _ = drilled
    assert found.problems == ()
    assert sum(row.laptops_killed + row.jumps_cut for row in found.rows) == 4


@pytest.mark.slow
@pytest.mark.parametrize("door", ["menu", "noforward"])
def test_laptops_killed_behind_other_doors_end_the_same(named_assets, tmp_path, door):
    with lab_in(tmp_path / "lab", door) as lab:
        found = drill.drill_laptop(lab, tmp_path / "laptops", named_assets, 2, lambda _: None, seed=3)
    assert found.problems == ()


def test_every_remote_call_is_told_with_its_task(drilled):
    _, folder = drilled
    told = [json.loads(line) for path in folder.glob("laptop-*/calls.jsonl") for line in path.read_text().splitlines()]
    assert {"fetch_results"} <= {call["task"] for call in told}
    assert any(call["line"] == "login" for call in told)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """As a launch leaves it; nothing runs."""
    release, run = tmp_path / "releases" / "r", tmp_path / "runs" / "20261124-101530-tiny-3fa9"
    release.mkdir(parents=True)
    run.mkdir(parents=True)
    (release / "code.py").write_text("pass\n")
    (release / "snapshot.json").write_text(json.dumps({"files": [
        {"path": "code.py", "size_bytes": 5, "md5": "7e61c41fd8db39d8cfb2aac19e3e2e4e"}]}))
    (run / "config.json").write_text(json.dumps({"release": str(release)}))
    (run / "journal.jsonl").write_text('{"kind": "launched"}\n')
    (run / "process").write_text("1 1 no-such-boot\n")
    (run / "train.log").write_text("")
    return tmp_path


def test_the_drill_sees_what_must_not_be(workspace):
    (run,) = (workspace / "runs").iterdir()
    with (run / "journal.jsonl").open("a") as file:
        file.write('{"kind": "launched"}\n')
    (workspace / "runs" / ".preparing-x").mkdir()
    (run / "checkpoints" / "step_000020.tmp").mkdir(parents=True)  # the training is saving: no litter
    (run / "config.json.tmp").touch()
    (workspace / "releases" / "r" / "code.py").write_text("half")
    wrong = "; ".join(drill._wrong_with_training(workspace))
    assert "step_000020" not in wrong
    for words in ("left over: ", "runs/.preparing-x", f"{run.name}/config.json.tmp",
                  "was launched 2 times", "does not run", "release: code.py"):
        assert words in wrong
    (workspace / "runs" / "20261124-101531-tiny-3fa8").mkdir()
    assert "2 runs" in drill._wrong_with_training(workspace)[-1]
