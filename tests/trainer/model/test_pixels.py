"""Frames on their way to SigLIP: the same pixels as its own processor makes, within what is stated here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from proofs.trainer_bench import published
from rdtops.trainer.data import libero
from rdtops.trainer.model.encoders import _resized_as_float, jittered, normalised, relit, resized
from tests.trainer.conftest import RECORDING


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """Real ones: (8, 128, 128, 3)."""
    dataset = libero.index(RECORDING)
    reader = libero.Frames(dataset)
    return torch.from_numpy(np.concatenate([reader.read(*dataset.locate(n)) for n in (0, 20, 40, 60)]))


def by_pil(frames: torch.Tensor, edge: int) -> torch.Tensor:
    images = [Image.fromarray(f.numpy()).resize((edge, edge), Image.Resampling.BICUBIC) for f in frames]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[int, float]:
    """The largest difference, and the share of values that differ."""
    difference = (ours.int() - theirs.int()).abs()
    return int(difference.max()), float((difference > 0).float().mean())


def test_on_a_cpu_an_enlarged_frame_is_pils_bit_for_bit(frames) -> None:
    assert torch.equal(resized(frames, 384), by_pil(frames, 384))


def test_on_a_gpu_one_value_in_ten_thousand_differs_by_one(frames) -> None:
    """The path that a GPU takes, here on the CPU."""
    most, share = apart(_resized_as_float(frames.permute(0, 3, 1, 2), 384), by_pil(frames, 384))
    assert most <= 1
    assert share < 2e-4


@pytest.mark.parametrize("edge", [256, 100, 64])
@pytest.mark.parametrize("resize", [resized, lambda f, edge: _resized_as_float(f.permute(0, 3, 1, 2), edge)])
def test_at_any_size_no_value_is_more_than_two_of_255_away(frames, edge, resize) -> None:
    most, share = apart(resize(frames, edge), by_pil(frames, edge))
    assert most <= 2
    assert share < 0.02


def test_siglip_hardly_tells_the_two_apart(frames) -> None:
    """A tower of the real picture and patch size, with random weights."""
    torch.manual_seed(0)
    tower = SiglipVisionModel(SiglipVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                                 num_attention_heads=2, image_size=384, patch_size=14)).eval()
    ways = by_pil(frames, 384), _resized_as_float(frames.permute(0, 3, 1, 2), 384)
    with torch.no_grad():
        theirs, ours = (tower(pixel_values=normalised(images)).last_hidden_state for images in ways)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-3  # bf16 rounds by 4e-3


def test_pixels_are_those_of_the_published_processor(frames) -> None:
    dataset = libero.index(RECORDING)
    images = published.FloatSamples(dataset, 384, augment=False)[20]["images"].unflatten(0, (2, 3))
    now = normalised(resized(torch.from_numpy(libero.Frames(dataset).read(*dataset.locate(20))), 384))
    torch.testing.assert_close(images[1, :2], now, atol=1e-6, rtol=0)
    torch.testing.assert_close(images[1, 2], torch.full_like(images[1, 2], 127 / 255 * 2 - 1), atol=1e-6, rtol=0)


def test_a_frame_at_the_encoders_size_is_left_alone(frames) -> None:
    assert torch.equal(resized(frames, 128), frames.permute(0, 3, 1, 2))


def test_light_changes_bytes_before_they_are_enlarged(frames) -> None:
    factors = torch.tensor([[1.2, 0.8, 1.1]]).repeat(len(frames), 1)
    late = jittered(resized(frames, 384) / 255, factors) * 255
    early = resized(relit(frames, factors), 384).float()
    assert (late - early).abs().mean() < 0.5
    assert torch.equal(relit(frames, torch.ones(len(frames), 3)), frames)
