"""SigLIP's output kept on disk: the same training, bit for bit, without encoding in every step."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rdtops.contract.config import override, preset
from rdtops.errors import ConfigError, DataError
from rdtops.hostlib.provenance import DATASET, VISION_ENCODER, Provenance
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.feature_file import FeatureFile
from rdtops.trainer.data.frames import Frames
from rdtops.trainer.data.samples import Samples, collate
from rdtops.trainer.data.slot_statistics import compute
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


@pytest.mark.parametrize("settings", [("image_augmentation=false",), ("image_augmentation=true",),
                                      ("loader_workers=2", "gradient_accumulation_steps=2")], ids=" ".join)
def test_a_training_with_kept_features_is_the_same_bit_for_bit(prepare, train_here, settings) -> None:
    short = (*SHORT, "max_steps=4", "sample_every_steps=4", *settings)
    plain = prepare("plain", *short, "loader_workers=0")
    assert train_here(plain) == 0
    cached = prepare("cached", *short, "vision_cache_gib=1")
    assert train_here(cached) == 0
    assert losses(cached) == losses(plain)
    assert digests(cached, 4) == digests(plain, 4)
    assert [e.data["action_mse"] for e in events(cached, "sample")] == [
        e.data["action_mse"] for e in events(plain, "sample")]


def test_a_training_without_augmentation_encodes_nothing_but_the_background(prepare, train_here, monkeypatch) -> None:
    cached = prepare("cached", *STILL, "max_steps=1", "vision_cache_gib=1")
    assert train_here(cached) == 0
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


@pytest.fixture
def samples(spec, vision, assets):
    """The samples of an augmented training, with features."""
    dataset, using = libero.index(RECORDING), codec("delta_velocity")
    config = override(preset("tiny"), ["num_processes=1", "batch_size_per_process=8", "condition_dropout=0.3"])
    made = Samples(dataset, using, compute(dataset, using), ["", *dataset.instructions], 16, 1000, config)
    made.features = ready(spec, vision)
    return made


def test_of_a_batch_only_what_the_model_sees_is_read(samples, monkeypatch) -> None:
    read, shown = Frames.read, []
    monkeypatch.setattr(Frames, "read", lambda self, episode, step, wanted_C: (
        shown.append(int(wanted_C.sum())), read(self, episode, step, wanted_C))[1])
    told = collate([samples[1, number] for number in range(8)]).observation
    is_jittered = (told.jitter_B3 != 1).any(1)
    kept_of_each = told.frames_kept_BVC.sum((1, 2))
    assert 0 < is_jittered.sum() < 8
    assert len(told.encoded_E) == sum(shown) == kept_of_each[is_jittered].sum()
    assert len(told.cached_F) == len(told.features_FPW) == kept_of_each[~is_jittered].sum()
    assert len(told.cached_F) + len(told.encoded_E) < 8 * 4  # some are dropped
    assert not told.frames_BVCSS3[~is_jittered].any()


def test_a_loader_worker_gets_the_name_of_the_file_and_not_its_content(samples) -> None:
    every_frame = np.ones((2, 2), bool)
    mine = samples.features.tokens(20, every_frame)
    sent = pickle.dumps(samples.features)
    assert len(sent) < 1000 < mine[0].nbytes
    assert all(map(torch.equal, pickle.loads(sent).tokens(20, every_frame), mine))


def test_a_file_that_is_gone_is_told_by_the_loader(samples) -> None:
    samples.features.path.unlink()
    told = [sample.message for number in range(8) if isinstance(sample := samples[1, number], DataError)]
    assert 0 < len(told) < 8  # the others are augmented
    assert f"the vision features {samples.features.path} cannot be read" in told[0]


def ready(spec, vision: Vision) -> FeatureFile:
    dataset = libero.index(RECORDING)
    origin = read(dataset, spec.assets["vision_encoder"])
    return features.prepare(spec, dataset, origin, vision, Ranks(0, 1, CPU))


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
        features.fill(FeatureFile(path, shape, torch.float32), dataset, vision, rank, 2)
    whole = ready(spec, vision)
    assert torch.equal(FeatureFile(path, shape, torch.float32).mapped(), whole.mapped())


def test_a_sample_has_the_frame_before_and_the_frame_now(spec, vision) -> None:
    dataset = libero.index(RECORDING)
    seen = torch.stack(ready(spec, vision).tokens(20, np.ones((2, 2), bool))).unflatten(0, (2, 2))
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
    seen = torch.stack(ready(spec, vision).tokens(5, np.ones((2, 2), bool)))
    frames = torch.from_numpy(np.stack([libero.Frames(libero.index(RECORDING)).read(
        libero.index(RECORDING).episodes[0], step) for step in (4, 5)])).flatten(0, 1)
    assert seen.dtype == torch.bfloat16
    assert torch.equal(seen, vision.encode(frames))
