from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.contract.run import Checkpoint, Retention, best_of
from rdtops.hostlib import manifest
from rdtops.trainer.loop import checkpoint
from tests.trainer.conftest import REPOSITORY, files_no_larger_than


def fill(folder: Path) -> None:
    (folder / "ema").mkdir()
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "ema" / "model.safetensors").write_bytes(b"e" * 1000)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def valid(folder: Path) -> list[int]:
    return [c.step for c in checkpoint.valid(folder)]


def test_a_saved_checkpoint_is_sealed_and_named(tmp_path) -> None:
    saved = checkpoint.save(tmp_path, 2000, fill)
    assert saved.name == "step_002000"
    assert saved.size_bytes == 2000
    sealed = manifest.read(saved.path)
    assert sealed.digest == saved.digest
    assert [f.path for f in sealed.files] == ["ema/model.safetensors", "model.safetensors"]
    assert names(tmp_path) == ["step_002000"]


def test_a_save_that_meets_a_full_disk_leaves_what_was_there(tmp_path) -> None:
    checkpoint.save(tmp_path, 1, fill)
    with files_no_larger_than(500), pytest.raises(OSError, match="File too large") as caught:
        checkpoint.save(tmp_path, 2, fill)
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == ["step_000001"]
    assert valid(tmp_path) == [1]


def test_a_save_killed_at_any_moment_leaves_no_half_checkpoint(tmp_path) -> None:
    code = ("import sys, time, pathlib; from rdtops.trainer.loop import checkpoint\n"
            "def slow(folder):\n"
            "    for n in range(200):\n"
            "        (folder / str(n)).write_bytes(bytes(1000)); time.sleep(0.005)\n"
            "print('go', flush=True)\n"
            "checkpoint.save(pathlib.Path(sys.argv[1]), 5, slow)\n")
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as saving:
        saving.stdout.readline()
        while not (tmp_path / "step_000005.tmp" / "20").exists():
            time.sleep(0.005)
        saving.kill()
    assert names(tmp_path) == ["step_000005.tmp"]
    assert checkpoint.newest_intact(tmp_path, pytest.fail) is None
    checkpoint.save(tmp_path, 5, fill)
    assert valid(tmp_path) == [5]


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / manifest.NAME).unlink(),
    lambda folder: (folder / manifest.NAME).write_text("{"),
    lambda folder: (folder / "model.safetensors").write_bytes(b"w" * 999),
    lambda folder: (folder / "ema" / "model.safetensors").unlink()])
def test_without_a_fitting_manifest_it_does_not_exist(tmp_path, damage) -> None:
    checkpoint.save(tmp_path, 1, fill)
    damage(Path(checkpoint.save(tmp_path, 2, fill).path))
    assert valid(tmp_path) == [1]
    assert checkpoint.newest_intact(tmp_path, pytest.fail).step == 1


def test_damage_that_keeps_the_size_is_found_before_resuming(tmp_path) -> None:
    checkpoint.save(tmp_path, 1, fill)
    newest = Path(checkpoint.save(tmp_path, 2, fill).path)
    (newest / "model.safetensors").write_bytes(b"w" * 999 + b"x")
    reports = []
    assert checkpoint.newest_intact(tmp_path, reports.append).step == 1
    assert reports == ["step_000002 is damaged and was skipped: model.safetensors: MD5 differs"]
    assert valid(tmp_path) == [1]  # nobody else takes it for the latest
    checkpoint.save(tmp_path, 2, fill)
    assert valid(tmp_path) == [1, 2]


def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_told(tmp_path) -> None:
    def fill_too(folder: Path) -> None:
        fill(folder)
        (folder / "empty").touch()

    checkpoint.save(tmp_path, 1, fill)
    newest = Path(checkpoint.save(tmp_path, 2, fill_too).path)
    (newest / "empty").unlink()
    (newest / "empty").symlink_to("/proc/self/mem")  # a regular file of 0 bytes whose first byte is an EIO
    reports = []
    assert checkpoint.newest_intact(tmp_path, reports.append).step == 1
    assert reports == ["step_000002 is damaged and was skipped: empty: Input/output error"]


def test_the_oldest_go_and_the_newest_stay(tmp_path) -> None:
    for step in (10, 2, 30, 9):
        checkpoint.save(tmp_path, step, fill)
    assert [c.step for c in checkpoint.prune(tmp_path, Retention(last=2))] == [2, 9]
    assert valid(tmp_path) == [10, 30]
    assert checkpoint.prune(tmp_path, Retention(last=2)) == []


def test_an_invalid_newer_one_never_costs_the_newest_valid_one(tmp_path) -> None:
    checkpoint.save(tmp_path, 1, fill)
    (Path(checkpoint.save(tmp_path, 2, fill).path) / manifest.NAME).unlink()
    checkpoint.prune(tmp_path, Retention(last=1))
    assert valid(tmp_path) == [1]


@pytest.mark.parametrize(("told", "loss"), [
    ('{"heldout_loss": 0.25}', 0.25), ('{"heldout_loss": null}', None), ('{"heldout_loss": NaN}', None), ("{", None),
    ("{}", None), ("[]", None)])
def test_the_held_out_loss_is_the_trainer_s_or_none(tmp_path, told, loss) -> None:
    saved = checkpoint.save(tmp_path, 1, lambda folder: (folder / checkpoint.TRAINER).write_text(told) and None)
    assert saved.heldout_loss == loss
    assert checkpoint.valid(tmp_path) == [saved]


CHECKPOINTS = st.dictionaries(st.integers(1, 60), st.none() | st.floats(0, 1), min_size=1).map(
    lambda losses: [Checkpoint(step, f"step_{step:06d}", "", 0, "", losses[step]) for step in sorted(losses)])


@given(CHECKPOINTS, st.integers(1, 5), st.integers(0, 12), st.integers(1, 4))
def test_what_is_kept_is_the_last_the_best_and_the_multiples_and_no_other(found, last, every_steps, best) -> None:
    gone = Retention(last, every_steps, best).surplus(found)
    kept = [c for c in found if c not in gone]
    assert kept[-last:] == found[-last:]
    assert best_of(kept) == best_of(found)
    better = sorted((c for c in found if c.heldout_loss is not None), key=lambda c: (c.heldout_loss, c.step))[:best]
    for c in found:
        is_multiple = every_steps > 0 and c.step % every_steps == 0
        assert (c in kept) == (c in found[-last:] or is_multiple or c in better)


def test_neither_the_newest_nor_the_best_can_be_given_up() -> None:
    for wrong in ({"last": 0}, {"last": 1, "best": 0}):
        with pytest.raises(AssertionError):
            Retention(**wrong)


def test_what_a_killed_save_left_behind_is_swept_up(tmp_path) -> None:
    checkpoint.save(tmp_path, 1, fill)
    (tmp_path / "step_000003.tmp" / "ema").mkdir(parents=True)
    checkpoint.sweep(tmp_path)
    assert names(tmp_path) == ["step_000001"]
