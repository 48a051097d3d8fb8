from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel

from proofs.trainer_bench.published import whole_image_tokens
from rdtops.contract.config import preset
from rdtops.errors import WeightsError
from rdtops.trainer.data import libero, slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Samples, collate
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.encoders import Vision, as_batch, encode_instructions, jittered
from rdtops.trainer.model.rdt import ARCHITECTURES
from tests.trainer.conftest import RECORDING, REPOSITORY

CPU = torch.device("cpu")
TEXT = "close the top drawer of the cabinet"


@pytest.fixture(scope="module")
def vision(assets) -> Vision:
    return Vision(assets["vision_encoder"], CPU, torch.float32)


def test_instructions_are_encoded_once_and_then_read(assets, tmp_path) -> None:
    first = encode_instructions(assets["text_encoder"], [TEXT, TEXT], tmp_path, CPU)
    assert sorted(first) == ["", TEXT]
    assert first[TEXT].shape == (len(TEXT) + 1, 32)  # a token a byte, and the end
    assert len(list(tmp_path.iterdir())) == 2
    times = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = encode_instructions(assets["text_encoder"], [TEXT], tmp_path, CPU)
    assert all(torch.equal(first[text], again[text]) for text in first)
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


def test_where_the_cache_is_warm_t5_is_not_imported(assets, tmp_path) -> None:
    encode_instructions(assets["text_encoder"], [TEXT], tmp_path, CPU)
    code = ("import sys, torch; from rdtops.trainer.model.encoders import encode_instructions; "
            f"encode_instructions({assets['text_encoder']!r}, [{TEXT!r}], {str(tmp_path)!r}, torch.device('cpu')); "
            "sys.exit('transformers' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_a_damaged_cache_entry_is_encoded_anew(assets, tmp_path) -> None:
    first = encode_instructions(assets["text_encoder"], [TEXT], tmp_path, CPU)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    again = encode_instructions(assets["text_encoder"], [TEXT], tmp_path, CPU)
    assert torch.equal(first[TEXT], again[TEXT])


def test_another_encoder_does_not_share_the_cache(assets, tmp_path) -> None:
    from rdtops.trainer import tiny

    first = encode_instructions(assets["text_encoder"], [TEXT], tmp_path / "cache", CPU)
    other = tmp_path / "t5-other"
    other.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "SEED", 7)
        tiny.text_encoder(other)
    again = encode_instructions(other, [TEXT], tmp_path / "cache", CPU)
    assert not torch.equal(first[TEXT], again[TEXT])
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.mark.parametrize("load", [
    lambda folder: encode_instructions(folder, [TEXT], folder / "cache", CPU),
    lambda folder: Vision(folder, CPU, torch.float32)])
def test_a_folder_without_an_encoder_says_so(tmp_path, load) -> None:
    with pytest.raises(WeightsError, match=r"config.json is missing"):
        load(tmp_path)


def test_a_vision_encoder_of_an_unknown_kind_is_refused_by_its_name(assets, tmp_path) -> None:
    shutil.copytree(assets["vision_encoder"], tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "dinov2"}))
    with pytest.raises(WeightsError, match=r"model_type is 'dinov2', known are .*siglip"):
        Vision(tmp_path / "other", CPU, torch.float32)


@pytest.mark.parametrize(("role", "load"), [
    ("text_encoder", lambda folder: encode_instructions(folder, [TEXT], folder / "cache", CPU)),
    ("vision_encoder", lambda folder: Vision(folder, CPU, torch.float32))])
def test_an_encoder_without_its_weights_says_so(assets, tmp_path, role, load) -> None:
    for path in Path(assets[role]).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(WeightsError, match=r"has no weights: none of model\.safetensors"):
        load(tmp_path)


def test_an_encoder_that_lacks_a_tensor_is_not_filled_with_random_numbers(assets, tmp_path) -> None:
    folder = Path(shutil.copytree(assets["vision_encoder"], tmp_path / "siglip"))
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("layers.1.mlp.fc2.bias"))
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack 1 tensors, .*layers\.1\.mlp\.fc2\.bias first"):
        Vision(folder, CPU, torch.float32)


def test_a_truncated_encoder_says_so(assets, tmp_path) -> None:
    folder = Path(shutil.copytree(assets["vision_encoder"], tmp_path / "siglip"))
    os.truncate(folder / "model.safetensors", 5000)
    with pytest.raises(WeightsError, match=r"it holds 5\.00 kB of 208 kB"):
        Vision(folder, CPU, torch.float32)


def test_the_published_folder_with_both_halves_of_siglip_gives_its_vision_half(tmp_path) -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = SiglipModel(SiglipConfig(
        text_config={**small, "vocab_size": 99, "projection_size": 32, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={**small, "image_size": 64, "patch_size": 16})).eval()
    both.save_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 64, 64)
    wanted = both.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(Vision(tmp_path, CPU, torch.float32)._tokens(pixels), wanted)


def test_texts_are_padded_and_masked_with_booleans() -> None:
    texts, tokens, mask = as_batch({"long": torch.ones(3, 2), "": torch.ones(1, 2)})
    assert texts == ["", "long"]
    assert tokens[0].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]


def test_frames_are_resized_and_encoded_from_uint8(vision) -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8))
    tokens = vision.encode(frames)
    assert tokens.shape == (3, 16, 32)
    assert torch.equal(tokens[:1], vision.encode(frames[:1]))
    assert not tokens.requires_grad


def test_what_siglip_makes_of_a_frame_does_not_depend_on_its_company(vision) -> None:
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (9, 128, 128, 3), np.uint8))
    together = vision.encode(frames)
    assert all(torch.equal(together[n], vision.encode(frames[n:n + 1])[0]) for n in range(9))
    assert vision.encode(frames[:0]).shape == (0, 16, 32)


def test_a_frame_that_was_dropped_is_not_encoded(conditions, monkeypatch) -> None:
    dataset = libero.index(RECORDING)
    samples = Samples(dataset, codec("delta_velocity"), slot_statistics.compute(dataset, codec("delta_velocity")),
                      conditions.texts, 16, 1000, replace(preset("tiny"), condition_dropout=0.5))
    batch = collate([samples[1, n] for n in range(4)])
    encode, seen = conditions.vision.encode, []
    monkeypatch.setattr(conditions.vision, "encode", lambda frames, *rest: seen.append(frames) or encode(frames, *rest))
    tokens = conditions.image_tokens(batch.observation)
    assert [len(frames) for frames in seen] == [int(batch.observation.frames_kept_BVC.sum())]
    assert 0 < len(seen[0]) < 16
    assert (tokens[~batch.observation.frames_kept_BVC] == conditions.vision.background_PW).all()


def test_the_background_is_what_a_grey_frame_gives(vision) -> None:
    grey = vision.encode(torch.full((1, 128, 128, 3), 127, dtype=torch.uint8))
    torch.testing.assert_close(grey[0], vision.background_PW, atol=1e-4, rtol=1e-4)


def test_factors_of_one_change_no_picture() -> None:
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(jittered(images, torch.ones(2, 3)), images)
    darker = jittered(images, torch.tensor([[0.5, 1, 1], [1, 1, 1]]))
    torch.testing.assert_close(darker[0], images[0] / 2)
    grey = jittered(images, torch.tensor([[1, 1, 0.0], [1, 1, 1]]))
    torch.testing.assert_close(grey[0, 0], grey[0, 2])


@pytest.fixture(scope="module")
def conditions(assets, tmp_path_factory) -> Conditions:
    texts = encode_instructions(assets["text_encoder"], [TEXT], tmp_path_factory.mktemp("cache"), CPU)
    return Conditions(texts, assets["vision_encoder"], 20, CPU, torch.float32)


def test_image_tokens_are_in_the_order_of_the_published_model(conditions) -> None:
    """Older frame, then now; in each the outside camera, the right wrist, and the left wrist that does not exist."""
    dataset = libero.index(RECORDING)
    samples = Samples(dataset, codec("delta_velocity"), slot_statistics.compute(dataset, codec("delta_velocity")),
                      conditions.texts, 16, 1000, preset("tiny"))
    batch = collate([samples.clean(0, 0), samples.clean(20, 0)])
    given = conditions.of(batch.observation)
    background = conditions.vision.background_PW
    tokens = whole_image_tokens(given["img_tokens"], given["background_tokens"]).unflatten(1, (2, 3, 16))
    assert (tokens[:, :, 2] == background).all()
    assert (tokens[0, 0] == background).all()  # there is nothing before the first frame
    for history in (0, 1):
        for camera in (0, 1):
            seen = conditions.vision.encode(batch.observation.frames_BVCSS3[1, history, camera][None])[0]
            torch.testing.assert_close(tokens[1, history, camera], seen)


@pytest.mark.parametrize(("key", "value"), [("lang_token_dim", 4096), ("img_token_dim", 1152), ("img_cond_len", 4374)])
def test_encoders_that_do_not_fit_the_model_are_refused(conditions, key, value) -> None:
    conditions.check(ARCHITECTURES["tiny"])
    with pytest.raises(WeightsError, match=f"{key} is {value} in config.json"):
        conditions.check({**ARCHITECTURES["tiny"], key: value})


def test_an_instruction_longer_than_the_model_takes_is_refused(conditions) -> None:
    with pytest.raises(WeightsError, match="an instruction has 36 tokens, the model takes 30"):
        conditions.check({**ARCHITECTURES["tiny"], "max_lang_cond_len": 30})
