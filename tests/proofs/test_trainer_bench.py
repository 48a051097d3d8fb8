"""The benchmark of the trainer compares what it says it compares."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from proofs.trainer_bench import speed
from tests.trainer.conftest import RECORDING, REPOSITORY


@pytest.fixture
def load(tmp_path) -> speed.Loading:
    speed.as_libero_stores(RECORDING, tmp_path)
    return speed.Loading(str(tmp_path), augment=False)


def test_both_loaders_deliver_the_same_pixels(load) -> None:
    """At an episode's start, too, where there is no frame before."""
    theirs, ours = load.both([0, 5, 46, 92])
    images = speed.FloatImages(4)
    for _ in range(2):  # in the same memory
        torch.testing.assert_close(images.of(ours.observation), theirs["images"], atol=1e-6, rtol=0)
        images.of(load.both([7, 8, 9, 10])[1].observation)


def test_the_augmented_way_augments(tmp_path) -> None:
    speed.as_libero_stores(RECORDING, tmp_path)
    plain, augmented = (speed.Loading(str(tmp_path), augment=augment).both([20, 40, 60])[0]["images"]
                        for augment in (False, True))
    assert not torch.equal(plain, augmented)  # all of 18 images left alone: once in 260,000 times
    assert not torch.equal(speed.Loading(str(tmp_path), augment=True).ours().observation.jitter_B3, torch.ones(4, 3))


def test_rows_arrive_through_inv_bench_trainer() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "bench", "trainer", "--quick", "--only", "bytes from worker", "--json"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)
    assert row["name"] == "bytes from worker to trainer a sample"
    assert row["value"] >= 40
    assert row["holds"]


def test_a_race_takes_turns_and_forgives_the_first_round() -> None:
    order = []
    slow, fast = speed.race(lambda: order.append("theirs"), lambda: order.append("ours"), 2)
    assert order == ["theirs", "ours"] * 3
    assert slow > 0 < fast


def test_the_plain_step_and_ours_have_the_same_gradients(monkeypatch) -> None:
    monkeypatch.setattr(speed, "PATCHES", 9)
    monkeypatch.setattr(speed, "SMALL", {
        **speed.SMALL, "img_cond_len": 54, "img_pos_embed_config": [["image", [2, 3, -9]]],
        "rdt": {"hidden_size": 256, "depth": 2, "num_heads": 4}})
    theirs, ours = speed.Step(ours=False), speed.Step(ours=True)
    assert speed.gradients_apart(theirs, ours) < speed.TOLERANCE
    theirs(), ours()
    for one, other in zip(theirs.policy.parameters(), ours.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)  # Adam moves each by the learning rate, 1e-5, or less
