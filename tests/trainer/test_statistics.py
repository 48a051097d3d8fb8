from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from rdtops.trainer import libero, statistics
from rdtops.trainer.actions import codec
from tests.trainer.conftest import RECORDING, REPOSITORY

CODEC = codec("delta_velocity")


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
    statistics.write(out, statistics.compute(dataset, CODEC))
    assert statistics.load_fitting(out, dataset, CODEC) == json.loads(out.read_text())
    assert statistics.load_fitting(out, dataset, type(CODEC)(velocity_gain=2.0)) is None
    demonstrations.write(steps=7)
    assert statistics.load_fitting(out, libero.index(demonstrations.folder), CODEC) is None


@pytest.mark.parametrize("damage", [
    lambda s: s["state"]["std"].pop(), lambda s: s["action"]["mean"].__setitem__(40, float("nan")),
    lambda s: s.pop("action")])
def test_incomplete_ones_do_not_fit(demonstrations, tmp_path, damage) -> None:
    demonstrations.write()
    dataset = libero.index(demonstrations.folder)
    found = statistics.compute(dataset, CODEC)
    damage(found)
    (tmp_path / "statistics.json").write_text(json.dumps(found))
    assert statistics.load_fitting(tmp_path / "statistics.json", dataset, CODEC) is None


def test_a_bad_dataset_ends_with_a_message_and_no_traceback(tmp_path, capsys) -> None:
    assert statistics.main([str(tmp_path), "--out", str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().err == f"{tmp_path} has no *.hdf5 file\nnext: inv deploy --only dataset\n"
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
    weights = statistics.slot_weights({"action": {"std": std}}, used)
    share = 128 / 3
    assert weights[:3].tolist() == pytest.approx([share / 4, share / 0.25, share / 0.04])  # 0.2 is a tenth of 2
    assert (weights[3:] == 1).all()
