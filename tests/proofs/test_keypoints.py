"""The keypoint encoder: its points, its files, and what it learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from proofs.closed_loop import keypoint_training
from proofs.closed_loop.keypoint_encoder import CONFIG, KeypointEncoder, spatial_softmax
from proofs.closed_loop.rendered_samples import RenderedSamples
from rdtops.errors import DataError, WeightsError
from rdtops.trainer.data import libero
from rdtops.trainer.model.encoders import Vision
from rdtops.trainer.model.rdt import ARCHITECTURES

CPU = torch.device("cpu")


def test_a_point_is_where_its_map_is_high() -> None:
    maps = torch.zeros(1, 3, 5, 9)
    maps[0, 0, 1, 8] = 100  # second row, last column
    maps[0, 1, 4, 0] = 100  # last row, first column
    points = spatial_softmax(maps)[0]
    assert points[0].tolist() == pytest.approx([1, -0.5])
    assert points[1].tolist() == pytest.approx([-1, 1])
    assert points[2].tolist() == pytest.approx([0, 0], abs=1e-6)  # as high everywhere


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    KeypointEncoder(CONFIG).save_pretrained(tmp_path)
    return tmp_path


def test_it_is_loaded_where_a_siglip_is_and_fits_the_small_model(folder) -> None:
    vision = Vision(folder, CPU, torch.float32)
    facts = ARCHITECTURES["small"]
    assert (vision.width, 6 * vision.tokens) == (facts["img_token_dim"], facts["img_cond_len"])
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    frames[1, 20:30, 40:50] = 255
    dark, lit = vision.encode(frames)
    assert dark.shape == (vision.tokens, vision.width)
    assert not torch.allclose(dark, lit)
    assert torch.equal(Vision(folder, CPU, torch.float32).encode(frames)[1], lit)


def test_every_token_carries_its_point_and_all_answers(folder) -> None:
    encoder = KeypointEncoder.from_pretrained(folder)
    images = torch.rand(3, 3, 128, 128) * 2 - 1
    tokens = encoder(images)
    points, place = encoder.towers[1](images)
    half = torch.cat([points[:, 2], encoder.towers[0](images)[1], place], dim=1)[..., None] * 0.5
    said = tokens[:, 8 + 2].unflatten(-1, (8, 8))  # third point of the second tower: 8 numbers, 4 sines and 4 cosines
    torch.testing.assert_close(said[..., 0], half.sin()[..., 0])
    torch.testing.assert_close(said[..., 4], half.cos()[..., 0])


@pytest.mark.parametrize(("key", "value"), [("towers", "two"), ("channels", None), ("image_size", 128.5)])
def test_a_config_of_something_else_is_refused_by_name(folder, key, value) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, key: value}))
    with pytest.raises(WeightsError, match=f"keypoint encoder: {key}"):
        Vision(folder, CPU, torch.float32)


def test_weights_that_do_not_fit_are_refused(folder) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "towers": 3}))
    with pytest.raises(WeightsError, match=r"missing .*towers\.2"):
        Vision(folder, CPU, torch.float32)


# --- its training

PER_M = 4.0  # halves of an image's edge


def drawn(count: int) -> RenderedSamples:
    """A red square on a table, seen from outside where it is, and from the hand where it is from there."""
    random = np.random.default_rng(0)
    there, hand = random.uniform(-0.1, 0.1, (2, count, 3))
    frames = random.integers(0, 20, (count, 2, 128, 128, 3)).astype(np.uint8)
    in_image = PER_M * np.stack([there, there - hand], axis=1)[..., :2]
    for number, camera in np.ndindex(count, 2):
        x, y = (64 + 64 * in_image[number, camera]).astype(int)
        frames[number, camera, y - 8:y + 8, x - 8:x + 8] = (220, 40, 40)
    return RenderedSamples(frames, there, hand, in_image, np.arange(count) // 10)


def test_the_encoder_learns_where_a_thing_is_that_they_never_saw_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(keypoint_training, "CONFIG", {**CONFIG, "image_size": 32})  # a quarter of the time
    samples = drawn(160)
    errors_m = keypoint_training.teach(samples, tmp_path / "eyes", steps=200)
    assert set(errors_m) == set(libero.CAMERAS)
    asked = keypoint_training.lesson(samples, 128).answers_GC3
    guess_m = keypoint_training.M_PER_UNIT * asked[..., :2].norm(dim=-1).mean(0)
    assert all(error < 0.35 * guess for error, guess in zip(errors_m.values(), guess_m.tolist(), strict=True)), errors_m
    assert Vision(tmp_path / "eyes", CPU, torch.float32).edge == 32


def test_the_outer_camera_is_asked_for_the_place_and_the_wrist_for_the_way() -> None:
    samples = drawn(20)
    lesson = keypoint_training.lesson(samples, 64)
    place, way = (keypoint_training.M_PER_UNIT * lesson.answers_GC3).numpy().swapaxes(0, 1)
    hand = samples.hand_m_G3 - samples.hand_m_G3.mean(0)
    assert np.allclose(place - way, hand, atol=1e-6)
    assert lesson.frames_GC3RR.shape == (20, 2, 3, 64, 64)


def test_what_a_camera_does_not_see_teaches_no_spot() -> None:
    samples = drawn(20)
    samples.object_in_image_GC2[3, 1] = (0.2, 1.3)
    samples.object_in_image_GC2[4, 0] = np.nan
    spots = keypoint_training.lesson(samples, 64).in_image_GC2
    assert spots.isnan().any(-1).nonzero().tolist() == [[3, 1], [4, 0]]
    shares = keypoint_training._spots(torch.tensor([[0.5, -1.0]]), 33).unflatten(1, (33, 33))[0]
    assert (shares == shares.max()).nonzero().tolist() == [[0, 24]]  # first row; three quarters across


def test_one_scene_trains_no_encoder(tmp_path) -> None:
    with pytest.raises(DataError, match="two scenes"):
        keypoint_training.teach(drawn(10), tmp_path / "eyes", steps=2)
