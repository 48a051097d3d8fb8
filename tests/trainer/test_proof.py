"""The proof in closed loop: its short form in the real simulator, its eyes, and what its rows claim."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from rdtops.errors import DataError
from rdtops.trainer import encoders, eyes, libero, proof
from rdtops.trainer.claims import DARK, PROOFS, TRAINED, UNTRAINED
from rdtops.trainer.rdt import ARCHITECTURES
from tests.trainer.conftest import RECORDING
from tests.trainer.worlds import needs_simulator

CLOSES = 20


@needs_simulator
@pytest.mark.timeout(600)
def test_a_policy_trained_for_a_minute_drives_clearly_better_than_an_untrained_one(capsys, tmp_path) -> None:
    assert proof.main(["--quick", "--keep", str(tmp_path)]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    trained, untrained = rows["drawer, trained"], rows["drawer, untrained"]
    assert trained["holds"], trained
    assert trained["value"] >= untrained["value"] + 0.5
    assert untrained["holds"], untrained
    assert rows["drawer, minutes of training"]["value"] < PROOFS["drawer"].limit_minutes


def test_a_baseline_is_beaten_only_when_the_intervals_lie_apart() -> None:
    pick = replace(PROOFS["pick"], trials=20)
    good, some, none = [50] * 18 + [None] * 2, [50] * 10 + [None] * 10, [None] * 20
    assert proof._row(pick, TRAINED, good, {TRAINED: good}).holds
    assert not proof._row(pick, TRAINED, some, {TRAINED: some}).holds
    assert proof._row(pick, UNTRAINED, none, {TRAINED: good}).holds
    assert not proof._row(pick, DARK, [50] * 12 + [None] * 8, {TRAINED: good}).holds


@pytest.fixture
def grasping(tmp_path):
    """The lab's recording twice, as if the hand had been open at first: it pushes a drawer with a fist."""
    folder = tmp_path / "demonstrations"
    folder.mkdir()
    for name in ("a.hdf5", "b.hdf5"):
        shutil.copy(next(RECORDING.glob("*.hdf5")), folder / name)
        with h5py.File(folder / name, "r+") as file:
            for demo in file["data"].values():
                demo["actions"][:CLOSES, 6] = -1
    return folder


def test_what_is_asked_of_the_eyes_is_where_the_hand_closes_and_then_opens(grasping) -> None:
    dataset = libero.index(grasping)
    seen = eyes.look(dataset)
    assert len(seen.frames_FC3RR) == len(dataset) == len(seen.place_m_FC23)
    episode = dataset.episodes[0]
    close = CLOSES
    for t in (0, close // 2, close, episode.starts - 1):
        (closes, opens), (way, _) = seen.place_m_FC23[t]
        assert np.allclose(closes - way, episode.position_m_T3[t], atol=1e-6)
        assert np.allclose(closes, episode.position_m_T3[close])
        assert np.allclose(opens, episode.position_m_T3[-1])  # it stays closed
        assert seen.asked_F2[t].tolist() == [t < close, True]


def test_demonstrations_in_which_no_hand_closes_teach_no_eyes(tmp_path) -> None:
    with pytest.raises(DataError, match="closes its hand"):
        eyes.teach(RECORDING, tmp_path / "eyes", steps=2)


def test_taught_eyes_are_a_vision_encoder_like_any_other(grasping, tmp_path) -> None:
    torch.manual_seed(0)
    errors_m = eyes.teach(grasping, tmp_path / "eyes", steps=2)
    assert set(errors_m) == set(libero.CAMERAS)
    vision = encoders.Vision(tmp_path / "eyes", torch.device("cpu"), torch.float32)
    facts = ARCHITECTURES["small"]
    assert (vision.width, 6 * vision.tokens) == (facts["img_token_dim"], facts["img_cond_len"])
    frames = torch.zeros(2, 128, 128, 3, dtype=torch.uint8)
    frames[1, 40:60, 40:60] = 255
    dark, lit = vision.encode(frames)
    assert not torch.allclose(dark, lit)
