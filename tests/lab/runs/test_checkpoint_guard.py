"""checkpoint_guard on a real host: nothing is deleted that has not a good twin, and never what a resume would take."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.checks import Status
from rdtops.contract.run import Checkpoint, checkpoint_name
from rdtops.errors import RdtopsError
from rdtops.hostlib import manifest
from rdtops.launcher import Traits
from rdtops.plugging.registry import Registry
from rdtops.testing import load

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]
PLUGIN = load("checkpoint_guard")


@pytest.fixture
def checkpoints(lab_spec):
    return Path(str(lab_spec().paths.checkpoints))


@pytest.fixture
def make(checkpoints):
    def make(step: int, heldout_loss: float = 0.5) -> Checkpoint:
        folder = checkpoints / checkpoint_name(step)
        (folder / "ema").mkdir(parents=True)
        (folder / "ema" / "model.safetensors").write_bytes(b"weights of %d" % step)
        (folder / "trainer.json").write_text(f'{{"heldout_loss": {heldout_loss}}}')
        sealed = manifest.seal(folder)
        return Checkpoint(step, folder.name, str(folder), sealed.size_bytes, sealed.digest, heldout_loss)
    return make


@pytest.fixture
def guard(lab_connection, lab_spec):
    """What the guard says of a checkpoint under some options, as the registry calls it."""
    def guard(checkpoint: Checkpoint, **options):
        object.__setattr__(lab_connection.host, "plugins", {"checkpoint_guard": options})
        (call,) = Registry([PLUGIN]).call("after_checkpoint", host=lab_connection.host, connection=lab_connection,
                                          run=lab_spec(), checkpoint=checkpoint)
        if call.error:
            raise call.error
        return call.value
    return guard


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def damage(checkpoint: Checkpoint) -> None:
    """As many bytes, other ones: only their digest tells."""
    file = Path(checkpoint.path, "ema", "model.safetensors")
    file.write_bytes(b"X" + file.read_bytes()[1:])


def test_without_options_it_does_nothing(guard, make, checkpoints):
    for step in range(1, 9):
        made = make(step)
    assert guard(made) is None
    assert len(names(checkpoints)) == 8


def test_a_damaged_checkpoint_is_named(guard, make):
    made = make(10)
    assert guard(made, verify=True) == {"verified": True}
    damage(made)
    with pytest.raises(RdtopsError, match=r"step_000010: ema/model.safetensors: MD5 differs"):
        guard(made, verify=True)


def test_a_copy_is_verified_and_a_good_one_is_left_alone(guard, make, tmp_path, lab_spec):
    made, archive = make(10), tmp_path / "archive"
    target = archive / lab_spec().run_id / "step_000010"
    assert guard(made, copy_to_folder=str(archive)) == {"copied": str(target)}
    assert manifest.differences(target, manifest.read(target)) == []
    before = target.stat().st_ino
    guard(made, copy_to_folder=str(archive))
    assert target.stat().st_ino == before
    (target / "ema" / "model.safetensors").write_bytes(b"rotten")
    guard(made, copy_to_folder=str(archive))
    assert manifest.differences(target, manifest.read(target)) == []
    assert names(target.parent) == ["step_000010"]


def test_of_a_damaged_checkpoint_there_is_no_copy(guard, make, tmp_path, lab_spec):
    made = make(10)
    damage(made)
    with pytest.raises(RdtopsError, match=r"was not copied .* MD5 differs"):
        guard(made, copy_to_folder=str(tmp_path / "archive"))
    assert names(tmp_path / "archive" / lab_spec().run_id) == []


def test_a_copy_here_lies_where_fetch_results_would_put_it(guard, make, tmp_path, lab_spec, home):
    made = make(10)
    said = guard(made, copy_to_laptop=str(tmp_path / "results"))
    target = tmp_path / "results" / "lab2" / lab_spec().run_id / "checkpoints" / "step_000010"
    assert said == {"downloaded": str(target)}
    assert manifest.read(target).digest == made.digest


# --- pruning ---

PRUNE = {"prune": True, "keep_last": 2}


def test_pruning_keeps_the_last_the_best_and_those_of_every_so_many_steps(guard, make, checkpoints):
    for step in (10, 20, 30, 40, 50, 60):
        made = make(step, heldout_loss=0.1 if step == 20 else 0.5)
    assert guard(made, **PRUNE, keep_every_steps=30) == {"verified": True, "pruned": "step_000010, step_000040"}
    assert names(checkpoints) == ["step_000020", "step_000030", "step_000050", "step_000060"]


def test_what_is_pruned_has_a_verified_copy_first(guard, make, checkpoints, tmp_path, lab_spec):
    archive = tmp_path / "archive"
    for step in (10, 20, 30, 40):
        made = make(step)
    guard(made, **PRUNE, copy_to_folder=str(archive))  # the earlier ones were never copied
    assert names(archive / lab_spec().run_id) == ["step_000020", "step_000040"]  # 10 is the best that there is
    assert names(checkpoints) == ["step_000010", "step_000030", "step_000040"]


def test_nothing_is_pruned_when_a_copy_fails(guard, make, checkpoints, tmp_path):
    (tmp_path / "archive").write_text("not a folder")
    for step in (10, 20, 30, 40):
        made = make(step)
    with pytest.raises(RdtopsError, match="was not copied"):
        guard(made, **PRUNE, copy_to_folder=str(tmp_path / "archive"))
    assert len(names(checkpoints)) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_a_full_disk_for_copies_is_named_and_nothing_is_lost(guard, make, checkpoints, tmp_path):
    archive = tmp_path / "small"
    archive.mkdir()
    for step in (10, 20, 30, 40):
        made = make(step)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(archive)], check=True)
    try:
        with pytest.raises(RdtopsError, match="No space left on device"):
            guard(made, **PRUNE, copy_to_folder=str(archive))
        assert list(archive.rglob("*.tmp")) == []
    finally:
        subprocess.run(["umount", str(archive)], check=True)
    assert len(names(checkpoints)) == 4


def test_nothing_is_pruned_when_the_newest_is_damaged(guard, make, checkpoints):
    for step in (10, 20, 30, 40):
        made = make(step)
    damage(made)
    with pytest.raises(RdtopsError, match="not what the trainer wrote"):
        guard(made, **PRUNE)
    assert len(names(checkpoints)) == 4


def test_only_the_newest_checkpoint_leads_to_pruning(guard, make, checkpoints):
    older = [make(step) for step in (10, 20, 30, 40)][2]
    assert guard(older, **PRUNE)["pruned"].startswith("nothing")
    assert len(names(checkpoints)) == 4


def test_what_has_no_valid_manifest_counts_for_nothing_and_is_left(guard, make, checkpoints):
    for step in (10, 20, 30, 40):
        made = make(step)
    (checkpoints / "step_000030" / "manifest.json").unlink()
    (checkpoints / "step_000050.tmp").mkdir()
    assert guard(made, **PRUNE) == {"verified": True}
    assert names(checkpoints) == ["step_000010", "step_000020", "step_000030", "step_000040", "step_000050.tmp"]


USES = {"open": "file = open(path)", "folder": "import os; os.chdir(os.path.dirname(path))",
        "mapped": "import mmap; f = open(path, 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); f.close()"}


@pytest.mark.parametrize("how", USES)
def test_a_checkpoint_that_a_process_uses_stays(guard, make, checkpoints, how):
    for step in (10, 20, 30, 40):
        made = make(step, heldout_loss=0.1 if step == 10 else 0.5)
    path = checkpoints / "step_000020" / "ema" / "model.safetensors"
    program = f"path = {str(path)!r}; {USES[how]}; print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.readline() == b"ready\n"
        assert guard(made, **PRUNE) == {"verified": True, "in_use": "step_000020"}
        reader.communicate(b"\n")
    assert guard(made, **PRUNE)["pruned"] == "step_000020"


def test_a_checkpoint_that_vanishes_meanwhile_is_an_error_of_ours(guard, make):
    made = make(10)
    shutil.rmtree(made.path)
    with pytest.raises(RdtopsError, match=r"manifest\.json"):
        guard(made, verify=True)


# --- before a training ---

@pytest.mark.parametrize(("folder", "status"), [
    ("~/archive/new", Status.OK), ("/proc/version/x", Status.FAIL), ("WORKSPACE/runs/archive", Status.FAIL)])
def test_the_folder_for_copies_is_looked_at(lab_connection, lab_spec, folder, status):
    place = folder.replace("WORKSPACE", lab_connection.host.workspace)
    object.__setattr__(lab_connection.host, "plugins", {"checkpoint_guard": {"copy_to_folder": place}})
    _, look = Registry([PLUGIN]).preflight_works(host=lab_connection.host, connection=lab_connection, spec=lab_spec(),
                                                 local_assets={}, traits=Traits())
    (found,) = look()
    assert found.status is status, found
    assert not (Path(lab_connection.home) / "archive").exists()
