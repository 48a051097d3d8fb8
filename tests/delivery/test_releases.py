"""Old releases go, but never one that is in use, and the one before can be had again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdtops.on_host import release_keeper as there


@pytest.fixture
def workspace(tmp_path) -> Path:
    """With eight releases, deployed one after another: r0 is the oldest."""
    now_s = time.time()
    for number in range(8):
        folder = tmp_path / "releases" / f"r{number}"
        folder.mkdir(parents=True)
        (folder / "snapshot.json").write_text("{}")
    (tmp_path / ".deployed").write_text("".join(f"{now_s - 100 + n:.3f} r{n}\n" for n in range(8)))
    return tmp_path


def run(workspace: Path, release: str, *files: str, folder: str = "runs/a", spec: str = "config.json") -> None:
    place = workspace / folder
    place.mkdir(parents=True)
    (place / spec).write_text(json.dumps({"release": f"{workspace}/releases/{release}"}))
    for name in files:
        (place / name).write_text("0\n")


def left(workspace: Path) -> list[str]:
    return sorted(p.name for p in (workspace / "releases").iterdir())


def test_the_newest_stay_and_the_rest_goes(workspace):
    assert there.settle(str(workspace), "r7", 5) == {"removed": ["r2", "r1", "r0"]}
    assert left(workspace) == ["r3", "r4", "r5", "r6", "r7"]


def test_what_was_deployed_again_is_new_again(workspace):
    there.settle(str(workspace), "r0", 2)
    assert left(workspace) == ["r0", "r7"]


def test_what_a_run_or_an_evaluation_uses_stays_and_what_one_has_used_goes(workspace):
    run(workspace, "r0", "process")  # running; or lost, and `sh launch.sh` goes on
    run(workspace, "r1", folder="runs/b")  # prepared
    run(workspace, "r2", "process", "exit", folder="runs/c")
    run(workspace, "r3", "process", folder="runs/c/eval/e", spec="eval.json")
    run(workspace, "r4", "process", "exit", folder="runs/c/eval/f", spec="eval.json")
    assert there.settle(str(workspace), "r7", 1) == {"removed": ["r6", "r5", "r4", "r2"]}
    assert left(workspace) == ["r0", "r1", "r3", "r7"]


def test_what_a_process_works_in_stays(workspace):
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=workspace / "releases/r0", stdin=subprocess.PIPE) as p:
        there.settle(str(workspace), "r7", 1)
        assert left(workspace) == ["r0", "r7"]
        p.communicate(b"\n")
    there.settle(str(workspace), "r7", 1)
    assert left(workspace) == ["r7"]


def test_uploads_that_broke_off_long_ago_go(workspace):
    for name in (".incoming-r7", ".incoming-old", ".incoming-of-now", ".removing-r9"):
        (workspace / "releases" / name).mkdir()
    os.utime(workspace / "releases" / ".incoming-old", (1, 1))
    there.settle(str(workspace), "r7", 8)
    assert [n for n in left(workspace) if n.startswith(".")] == [".incoming-of-now", ".incoming-r7"]


def test_nothing_is_removed_while_a_training_begins(workspace, monkeypatch):
    from rdtops.hostlib.locks import LAUNCHES, alone

    monkeypatch.setattr(there, "PATIENCE_S", 0.2)
    with alone(str(workspace / "runs" / LAUNCHES), 1.0) as mine:
        assert mine
        assert there.settle(str(workspace), "r7", 1) == {"removed": []}
    assert len(left(workspace)) == 8


def test_a_rollback_is_in_force_until_the_next_deploy(workspace):
    there.roll_back(str(workspace), to="r6", before="r7", by="ann@laptop")
    assert there.listed(str(workspace))["rolled_back"]["to"] == "r6"
    there.settle(str(workspace), "r7", 5)
    assert there.listed(str(workspace))["rolled_back"] is None
