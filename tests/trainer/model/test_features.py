"""SigLIP's output kept on disk: the same training, bit for bit, without encoding in every step."""

from __future__ import annotations

import os
import shutil
from dataclasses import make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rdtops.contract.config import override, preset
from rdtops.errors import ConfigError
from rdtops.hostlib.provenance import DATASET, VISION_ENCODER, Provenance
from rdtops.trainer.data import libero
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.model import features
from rdtops.trainer.model.encoders import Vision
from tests.trainer.conftest import RECORDING, SHORT, events, flip, losses
from tests.trainer.test_train import digests

CPU = torch.device("cpu")
STILL = (*SHORT, "image_augmentation=false")
SAMPLES, FRAME_BYTES = 46 + 47, 16 * 32 * 4


def kept(spec) -> list[Path]:
    return sorted((Path(spec.workspace) / "cache" / "features").iterdir())


@pytest.fixture(scope="module")
def vision(assets) -> Vision:
    return Vision(assets["vision_encoder"], CPU, torch.float32)


def test_a_training_with_kept_features_is_the_same_bit_for_bit(prepare, train_here, monkeypatch) -> None:
    plain = prepare("plain", *STILL, "sample_every_steps=4")
    assert train_here(plain) == 0
    cached = prepare("cached", *STILL, "sample_every_steps=4", "vision_cache_gib=1")
    assert train_here(cached) == 0
    assert losses(cached) == losses(plain)
    assert digests(cached, 12) == digests(plain, 12)
    assert [e.data["action_mse"] for e in events(cached, "sample")] == [
        e.data["action_mse"] for e in events(plain, "sample")]
    (path,) = kept(cached)
    assert path.stat().st_size == SAMPLES * 2 * FRAME_BYTES

    encoded = []
    monkeypatch.setattr(Vision, "encode", lambda *given: encoded.append(given) or torch.zeros(1, 16, 32))
    again = prepare("again", *STILL, "max_steps=2", "vision_cache_gib=1")
    assert train_here(again) == 0
    assert len(encoded) == 1  # the background


def test_loader_workers_read_no_pixels_then(prepare, train_here, monkeypatch) -> None:
    first = prepare("first", *STILL, "max_steps=1", "vision_cache_gib=1")
    assert train_here(first) == 0
    monkeypatch.setattr(libero.Frames, "read", None)
    assert train_here(prepare("second", *STILL, "max_steps=1", "vision_cache_gib=1")) == 0


def test_augmentation_and_kept_features_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"vision_cache_gib = 3: needs image_augmentation=false"):
        override(preset("tiny"), ["vision_cache_gib=3"])
    assert override(preset("tiny"), ["vision_cache_gib=3", "image_augmentation=false"]).vision_cache_gib == 3


def ready(spec, vision: Vision, **changes):
    ranks = Ranks(0, 1, CPU)
    dataset = libero.index(RECORDING)
    origin = read(dataset, spec.assets["vision_encoder"])
    return features.prepare(replace(spec, **changes), dataset, origin, vision, ranks)


def read(dataset: libero.Dataset, encoder: str) -> Provenance:
    return Provenance({DATASET: dataset.md5, **Provenance.of({VISION_ENCODER: encoder}).parts})


@pytest.fixture
def spec(prepare):
    return prepare("run", *STILL, "vision_cache_gib=1")


def test_two_processes_share_the_work(spec, vision, tmp_path) -> None:
    dataset = libero.index(RECORDING)
    path, shape = tmp_path / "table", (SAMPLES, 2, 16, 32)
    path.write_bytes(bytes(SAMPLES * 2 * FRAME_BYTES))
    for rank in (0, 1):
        features.Features(path, shape, torch.float32, CPU, write=True).fill(dataset, vision, rank, 2)
    whole = ready(spec, vision)
    every = torch.arange(SAMPLES)
    assert torch.equal(features.Features(path, shape, torch.float32, CPU).of(every), whole.of(every))


def test_a_sample_has_the_frame_before_and_the_frame_now(spec, vision) -> None:
    dataset = libero.index(RECORDING)
    seen = ready(spec, vision).of(torch.tensor([20])).unflatten(0, (2, 2))
    reader = libero.Frames(dataset)
    for history, step in ((0, 19), (1, 20)):
        frames = torch.from_numpy(reader.read(dataset.episodes[0], step))
        assert torch.equal(seen[history], vision.encode(frames))


def test_too_little_room_is_an_error_that_says_how_much_is_needed(spec, vision) -> None:
    huge = replace(vision_like(vision), tokens=10**7)
    with pytest.raises(ConfigError, match=r"take 221\.7 GiB, vision_cache_gib allows 1") as caught:
        ready(spec, huge)
    assert caught.value.remedy == "inv train --set vision_cache_gib=222"
    assert kept(spec) == []


def vision_like(vision: Vision):
    names = ("tokens", "width", "dtype", "device")
    return make_dataclass("Like", names)(*(getattr(vision, name) for name in names))


def test_a_full_disk_is_an_error_before_anything_is_encoded(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"GiB free: .*No space left"):
        features._begin(tmp_path / "key", tmp_path / "key.tmp", 1000, 1 << 30)
    assert list(tmp_path.iterdir()) == []


def test_the_room_is_bounded_and_the_least_recently_used_go_first(tmp_path) -> None:
    for age, name in enumerate(("newer", "older", "oldest")):
        (tmp_path / name).write_bytes(bytes(400))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished.tmp").write_bytes(bytes(10))
    assert features._begin(tmp_path / "key", tmp_path / "key.tmp", 300, 1200)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key.tmp", "newer", "older"]
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 1200


@pytest.mark.parametrize("change", ["data", "dtype", "encoder"])
def test_other_data_or_another_encoder_does_not_share(vision, assets, change, tmp_path) -> None:
    dataset, folder = libero.index(RECORDING), Path(assets["vision_encoder"])
    origin = read(dataset, str(folder))
    key = features._key(dataset, origin, vision)
    if change == "data":
        origin = read(replace(dataset, md5=dict.fromkeys(dataset.md5, "0")), str(folder))
    elif change == "dtype":
        vision = Vision(folder, CPU, torch.bfloat16)
    else:
        other = Path(shutil.copytree(folder, tmp_path / "other"))
        flip(other / "model.safetensors")
        origin = read(dataset, str(other))
    assert features._key(dataset, origin, vision) != key


def test_bfloat16_is_kept_as_it_is(spec, assets) -> None:
    vision = Vision(assets["vision_encoder"], CPU, torch.bfloat16)
    seen = ready(spec, vision).of(torch.tensor([5]))
    frames = torch.from_numpy(np.stack([libero.Frames(libero.index(RECORDING)).read(
        libero.index(RECORDING).episodes[0], step) for step in (4, 5)])).flatten(0, 1)
    assert seen.dtype == torch.bfloat16
    assert torch.equal(seen, vision.encode(frames))
