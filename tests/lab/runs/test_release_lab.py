"""Working on what stays on the laptop disturbs no training: neither documents nor plugins make another release."""

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.delivery import snapshot
from rdtops.hostlib import processes
from rdtops.lab.site import Lab
from tests.lab.commandline import ROOT, CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
TRAIN = "train --host lab --set max_steps=100000 --set checkpoint_every_steps=100000 --set heldout_share=0"


def git(tree: Path, *words: str) -> str:
    return subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=tree, check=True,
                          capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def inv(lab: Lab, tiny_hosts: Path, tmp_path_factory) -> CommandLine:
    """In a copy of this tree, with a workspace where nobody else trains."""
    tree = tmp_path_factory.mktemp("tree")
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    git(tree, "init", "-q")
    git(tree, "add", "-A", "--force")
    git(tree, "commit", "-qm", "first")
    hosts = tmp_path_factory.mktemp("hosts") / "hosts.toml"
    hosts.write_text(tiny_hosts.read_text().replace('"~/rdtops"', '"~/edited"'))
    line = CommandLine(tmp_path_factory.mktemp("laptop"), hosts, tree)
    line.env["PYTHONPATH"] = str(tree)
    return line


@pytest.fixture(scope="module")
def workspace(lab: Lab, inv) -> Iterator[Path]:
    folder = lab.home("lab") / "edited"
    yield folder
    for run in runs(folder):
        processes.end(functools.partial(processes.carrying, f"RDTOPS_RUN={run}"))


@pytest.fixture(scope="module")
def run_id(inv, workspace) -> str:
    inv.good("deploy --host lab", timeout_s=200)
    return inv.good(f"{TRAIN} --json").rows()[0]["run_id"]


def runs(workspace: Path) -> list[str]:
    return sorted(p.name for p in (workspace / "runs").iterdir() if not p.name.startswith("."))


def edit(tree: Path, *names: str) -> None:
    for name in names:
        file = tree / name
        file.write_text(file.read_text() + "\n")


def test_what_lies_there_is_what_the_table_says_and_what_the_training_runs(inv, run_id, workspace):
    (release,) = (workspace / "releases").iterdir()
    there = {p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file()}
    assert there == {*snapshot.take(inv.root).files, "snapshot.json"}
    config = json.loads((workspace / "runs" / run_id / "config.json").read_text())
    assert config["release"] == str(release)


def test_a_training_is_adopted_after_edits_of_documents_plugins_and_the_laptops_side(inv, run_id, workspace):
    edit(inv.root, "README.md", "docs/design.md", "plugins/md5.py", "rdtops/ui/cli.py", "tests/__init__.py")
    for _ in ("edited", "committed"):
        (row,) = inv.good(f"{TRAIN} --json").rows()
        assert (row["run_id"], row["is_new"]) == (run_id, False)
        (code,) = inv.good("deploy --host lab --only code --json").rows()
        assert code["note"] == "this snapshot is on the host already"
        assert (code["sent_bytes"], {f["action"] for f in code["files"]}) == (0, {"skip"})
        git(inv.root, "commit", "-qam", "edited", "--allow-empty")
    assert runs(workspace) == [run_id]


def test_another_trainer_is_another_release_and_is_not_taken_for_what_runs(inv, run_id, workspace):
    edit(inv.root, "rdtops/trainer/train.py")
    inv.refused(TRAIN, 1, "code: this tree (", "is not deployed", f"resources held by {run_id}")
    (code,) = inv.good("deploy --host lab --only code --json").rows()
    assert [f["path"] for f in code["files"] if f["action"] == "send"] == ["rdtops/trainer/train.py"]
    assert "-dirty-" in code["target"]
    inv.refused(TRAIN, 1, f"resources held by {run_id}", f"inv stop --host lab --run {run_id}")
    assert runs(workspace) == [run_id]
