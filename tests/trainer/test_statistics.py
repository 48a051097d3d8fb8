from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from rdtops.hostlib import digests
from rdtops.trainer import statistics
from rdtops.trainer.data import libero, slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.plausibility import implausible
from tests.trainer.conftest import RECORDING, REPOSITORY

CODEC = codec("delta_velocity")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    """A home of its own: MD5 sums are remembered there."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def test_the_command_writes_what_the_data_say(demonstrations, tmp_path, capsys) -> None:
    path = demonstrations.write(episodes=2, steps=6)
    out = tmp_path / "statistics.json"
    assert statistics.main([str(demonstrations.folder), "--out", str(out)]) == 0
    assert "1 files, 2 episodes" in capsys.readouterr().out
    found = json.loads(out.read_text())
    with h5py.File(path) as file:
        actions = np.concatenate([demo["actions"][1:] for demo in file["data"].values()])
    for what, wanted in (("mean", actions.mean(0)), ("std", actions.std(0)), ("min", actions.min(0))):
        assert found["action"][what][39:42] == pytest.approx(wanted[:3], abs=1e-6)
        assert found["action"][what][42:45] == pytest.approx(10 * wanted[3:6], abs=1e-5)
    for kind in ("state", "action"):
        for what in ("mean", "std", "min", "max"):
            assert len(found[kind][what]) == 128
            assert np.isfinite(found[kind][what]).all()


def test_they_are_keyed_by_data_and_codec(demonstrations, tmp_path) -> None:
    demonstrations.write()
    dataset = libero.index(demonstrations.folder)
    out = tmp_path / "statistics.json"
    slot_statistics.write(out, slot_statistics.compute(dataset, CODEC))
    assert slot_statistics.load_fitting(out, dataset, CODEC) == json.loads(out.read_text())
    assert slot_statistics.load_fitting(out, dataset, type(CODEC)(velocity_gain=2.0)) is None
    demonstrations.write(steps=7)
    assert slot_statistics.load_fitting(out, libero.index(demonstrations.folder), CODEC) is None


@pytest.mark.parametrize("damage", [
    lambda s: s["state"]["std"].pop(), lambda s: s["action"]["mean"].__setitem__(40, float("nan")),
    lambda s: s.pop("action")])
def test_incomplete_ones_do_not_fit(demonstrations, tmp_path, damage) -> None:
    demonstrations.write()
    dataset = libero.index(demonstrations.folder)
    found = slot_statistics.compute(dataset, CODEC)
    damage(found)
    (tmp_path / "statistics.json").write_text(json.dumps(found))
    assert slot_statistics.load_fitting(tmp_path / "statistics.json", dataset, CODEC) is None


def test_a_bad_dataset_ends_with_a_message_and_no_traceback(tmp_path, capsys) -> None:
    assert statistics.main([str(tmp_path), "--out", str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().err == f"{tmp_path} has no *.hdf5 file\nnext: inv deploy --only data\n"
    assert not (tmp_path / "out.json").exists()


def test_the_command_needs_no_torch(tmp_path) -> None:
    """So that `inv stats` answers in a second."""
    code = ("import sys; from rdtops.trainer import statistics; "
            f"statistics.main([{str(RECORDING)!r}, '--out', {str(tmp_path / 's.json')!r}]); "
            "sys.exit('torch' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def test_the_normalised_loss_weighs_a_slot_by_its_spread() -> None:
    used = np.zeros(128, bool)
    used[:3] = True
    std = [2.0, 0.5, 0.0] + [0.0] * 125
    weights = slot_statistics.slot_weights({"action": {"std": std}}, used)
    share = 128 / 3
    assert weights[:3].tolist() == pytest.approx([share / 4, share / 0.25, share / 0.04])  # 0.2 is a tenth of 2
    assert (weights[3:] == 1).all()


# --- verified, or computed anew, and said why ---

def verified(folder, *options):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert statistics.main([str(folder), "--json", *options]) == 0
    return json.loads(out.getvalue())


def test_unchanged_data_need_no_recomputation_and_are_not_read(demonstrations, monkeypatch, capsys) -> None:
    demonstrations.write()
    first = verified(demonstrations.folder)
    assert (first["why"], first["is_written"]) == ("there were none", True)
    monkeypatch.setattr(slot_statistics.isolation, "index", lambda *_, **__: pytest.fail("the data were read"))
    again = verified(demonstrations.folder)
    assert (again["why"], again["files"]) == ("", first["files"])
    assert statistics.main([str(demonstrations.folder)]) == 0
    assert "up to date: the MD5 of every file and the codec are unchanged" in capsys.readouterr().out


def test_a_file_that_nothing_has_touched_is_not_even_read_for_its_md5(tmp_path, monkeypatch) -> None:
    out = str(tmp_path / "statistics.json")
    path = shutil.copy2(next(RECORDING.glob("*.hdf5")), tmp_path / "a.hdf5")
    os.utime(path, (1_000_000, 1_000_000))
    for _ in range(2):
        verified(tmp_path, "--out", out)
    monkeypatch.setattr(digests, "md5_of", lambda _: pytest.fail("the file was read"))
    assert verified(tmp_path, "--out", out)["why"] == ""


def test_whatever_does_not_fit_is_computed_anew_with_the_reason(demonstrations) -> None:
    folder = demonstrations.folder
    demonstrations.write()
    verified(folder)
    assert verified(folder, "--codec", "absolute_pose")["why"].startswith("they were of codec delta_velocity")
    demonstrations.write(steps=7)
    assert verified(folder, "--codec", "absolute_pose")["why"] == "the MD5 of task_demo.hdf5 has changed"
    demonstrations.write("second.hdf5", steps=7)
    assert verified(folder, "--codec", "absolute_pose")["why"] == "the MD5 of second.hdf5 has changed"
    assert verified(folder, "--codec", "absolute_pose", "--recompute")["why"] == "asked for"
    (folder / "statistics.json").write_text("{")
    assert verified(folder)["why"].startswith("they could not be read (JSONDecodeError")


@pytest.mark.parametrize(("kind", "what", "slot", "value", "says"), [
    ("action", "mean", 40, float("nan"), "action, slot 40, velocity 1 (m/s): not finite"),
    ("state", "max", 3, float("inf"), "state, slot 3, joint 3 (rad): not finite"),
    ("state", "std", 31, 250.0, "state, slot 31, position 1 (m): std 250 is above 100"),
    ("state", "max", 31, 95.0, "state, slot 31, position 1 (m): from"),
    ("action", "mean", 30, 0.5, "action, slot 30, position 0 (m): delta_velocity does not use"),
])
def test_stored_numbers_that_no_robot_makes_are_named_and_replaced(tmp_path, kind, what, slot, value, says) -> None:
    out = tmp_path / "statistics.json"
    verified(RECORDING, "--out", str(out))
    stored = json.loads(out.read_text())
    stored[kind][what][slot] = value
    out.write_text(json.dumps(stored))
    found = verified(RECORDING, "--out", str(out))
    assert found["why"].startswith(f"they were implausible: {says}")
    assert found["is_sound"]


def test_data_that_give_such_numbers_end_with_1_and_the_slot(demonstrations, capsys) -> None:
    def in_centimetres(data: h5py.Group) -> None:
        for demo in data.values():
            demo["obs/ee_pos"][...] *= 100

    demonstrations.write(change=in_centimetres)
    assert statistics.main([str(demonstrations.folder)]) == 1
    out = capsys.readouterr().out
    assert "WRONG: state, slot 30, position 0 (m): from -" in out
    assert "is beyond a robot's range: another unit?" in out


def test_a_slot_that_never_changes_is_odd_and_no_fault() -> None:
    dataset = libero.index(RECORDING)
    odd = implausible(slot_statistics.compute(dataset, CODEC), CODEC)
    assert [(u.slot, u.is_wrong) for u in odd] == [("slot 10, gripper open (0 to 1)", False)]  # it pushes, closed


def test_a_folder_that_cannot_be_written_still_gets_its_answer(tmp_path) -> None:
    found = verified(RECORDING, "--out", str(tmp_path / "missing" / "statistics.json"))
    assert (found["is_written"], found["is_sound"]) == (False, True)


def test_where_statistics_stand_is_told_without_reading_the_data(tmp_path, monkeypatch) -> None:
    shutil.copytree(RECORDING, tmp_path / "data")
    file = tmp_path / "data" / slot_statistics.NAME
    assert slot_statistics.standing(tmp_path / "data", CODEC).why_not == "there were none"
    verified(tmp_path / "data")
    odd = ("slot 10, gripper open (0 to 1): always 0: constant in these data",)
    monkeypatch.setattr(digests, "md5_of", lambda path: pytest.fail(f"{path} was read"))
    assert slot_statistics.standing(tmp_path / "data", CODEC) == slot_statistics.Standing("", "", odd, 0)
    assert "of codec delta_velocity" in slot_statistics.standing(tmp_path / "data", codec("absolute_pose")).why_not
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "state": {**stored["state"], "std": [250.0] * 128}}))
    assert slot_statistics.standing(tmp_path / "data", CODEC).wrong.startswith("state, slot 0, joint 0 (rad): std 250")
    file.write_text(json.dumps(stored))
    (tmp_path / "data" / "more_demo.hdf5").write_bytes(b"new")
    found = slot_statistics.standing(tmp_path / "data", CODEC)
    assert (found.why_not, found.unread) == ("the MD5 of more_demo.hdf5 has changed", 1)
