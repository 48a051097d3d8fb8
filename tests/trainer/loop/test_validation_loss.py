"""Held out is what training never sees: proven by changing it."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from rdtops.contract.config import override, preset
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Batch, Samples
from rdtops.trainer.data.slot_statistics import compute
from rdtops.trainer.loop import fixed_batches, validation_loss
from rdtops.trainer.loop.sampling import ActionError
from rdtops.trainer.loop.validation_loss import ValidationLoss
from rdtops.trainer.model import encoders
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import ALONE, SHORT, events, losses

FEW = (*SHORT, "max_steps=3", "heldout_every_steps=1", "heldout_samples=6")
# what the statistics of the whole dataset are used for in training
NO_STATISTICS = ("state_noise_snr_db=none", "condition_dropout=0")


def told(spec) -> list[float]:
    return [e.data["loss"] for e in events(spec, "heldout")]


def test_training_does_not_see_a_held_out_episode(prepare, train_here, demonstrations, tmp_path) -> None:
    demonstrations.write(episodes=20, steps=8)
    dataset = libero.index(demonstrations.folder)
    heldout_of = samples_of(dataset, prepare("any", *FEW).train).split.heldout
    (name,) = {dataset.locate(int(s))[0].name for s in heldout_of}
    others = {e.name for e in dataset.episodes} - {name}
    runs = {}
    for which, changed in (("none", set()), ("held out", {name}), ("others", others)):
        folder = Path(shutil.copytree(demonstrations.folder, tmp_path / which))
        change(folder / "task_demo.hdf5", changed)
        runs[which] = prepare(which.replace(" ", "_"), *FEW, *NO_STATISTICS, dataset=str(folder))
        assert train_here(runs[which]) == 0
    assert losses(runs["held out"]) == losses(runs["none"])
    assert len(told(runs["none"])) == 3
    assert not set(told(runs["held out"])) & set(told(runs["none"]))
    assert not set(losses(runs["others"])) & set(losses(runs["none"]))  # so a change that is seen shows


def change(path: Path, episodes: set[str]) -> None:
    with h5py.File(path, "r+") as file:
        for name in episodes:
            demo = file["data"][name]
            demo["actions"][...] = -demo["actions"][...]
            demo["obs/agentview_rgb"][...] = 255 - demo["obs/agentview_rgb"][...]


def samples_of(dataset, config) -> Samples:
    using = codec(config.codec)
    return Samples(dataset, using, compute(dataset, using), ["", *dataset.instructions], 16, 1000, config)


def test_looking_changes_nothing_and_looking_again_sees_the_same(prepare, train_here) -> None:
    often, never = prepare("often", *FEW), prepare("never", *FEW, "heldout_every_steps=0")
    assert train_here(often) == train_here(never) == 0
    assert losses(often) == losses(never)
    assert len(told(often)) == 3
    assert told(never) == told(often)[-1:]  # of the checkpoint at the end


def test_a_share_of_zero_switches_it_off(prepare, train_here) -> None:
    spec = prepare("off", *FEW, "heldout_share=0")
    assert train_here(spec) == 0
    assert told(spec) == []
    assert events(spec, "started")[0].data["heldout_samples"] == 0
    assert [e.data["heldout_loss"] for e in events(spec, "checkpoint")] == [None]


@pytest.fixture(scope="module")
def tiny(assets, tmp_path_factory):
    """Samples and conditions of the recording, and the pretrained policy."""
    config = override(preset("tiny"), ["heldout_samples=20"])
    dataset = libero.index(assets["dataset"])
    texts = encoders.encode_instructions(
        assets["text_encoder"], dataset.instructions, tmp_path_factory.mktemp("cache"), torch.device("cpu"))
    conditions = Conditions(texts, assets["vision_encoder"], 20, torch.device("cpu"), torch.float32)
    return samples_of(dataset, config), conditions, RDTPolicy.from_pretrained(assets["pretrained"]).eval()


def test_it_is_the_training_loss_of_all_predictions_whatever_they_travel_in(tiny, monkeypatch) -> None:
    samples, conditions, policy = tiny
    found = []
    for piece in (20, 8, 3):
        monkeypatch.setattr(validation_loss, "PIECE", piece)
        found.append(ALONE.evaluate(policy, ValidationLoss(samples, conditions, torch.device("cpu"))))
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-5)


def test_its_images_are_encoded_once_and_the_bits_are_the_same(tiny, monkeypatch) -> None:
    samples, conditions, policy = tiny
    encoded = []
    encode = conditions.vision.encode
    monkeypatch.setattr(conditions.vision, "encode", lambda *given: encoded.append(given) or encode(*given))
    for evaluation in (ValidationLoss, ActionError):
        kept = evaluation(samples, conditions, torch.device("cpu"))
        first = ALONE.evaluate(policy, kept)
        assert len(encoded) == kept.pieces
        assert ALONE.evaluate(policy, kept) == first
        assert len(encoded) == kept.pieces
        assert not any(kept.batches.read(n).observation.frames_BVCSS3.numel() for n in range(kept.pieces))
        encoded.clear()


def test_no_more_tokens_are_kept_than_the_limit_allows(tiny, monkeypatch) -> None:
    samples, conditions, policy = tiny
    loss = ValidationLoss(samples, conditions, torch.device("cpu"))
    one = conditions.image_tokens(loss.read(0).observation)
    monkeypatch.setattr(fixed_batches, "KEPT_BYTES", one.nbytes)
    assert ALONE.evaluate(policy, loss) == ALONE.evaluate(policy, loss)
    assert [t.nbytes for t in loss.batches._tokens.values()] == [one.nbytes]


def test_the_predictions_are_counted_as_their_masks_count_them(tiny) -> None:
    samples, conditions, _ = tiny
    loss = ValidationLoss(samples, conditions, torch.device("cpu"))
    assert loss._valid_steps == sum(int(b.target.step_mask_BH.sum()) for b in batches_of(loss)) < 20 * samples.horizon


def batches_of(loss: ValidationLoss) -> list[Batch]:
    return [loss.read(piece) for piece in range(loss.pieces)]


def test_predictions_are_spread_over_samples_and_diffusion_steps(tiny) -> None:
    samples, conditions, _ = tiny
    batches = batches_of(ValidationLoss(samples, conditions, torch.device("cpu")))
    timesteps = torch.cat([b.target.timesteps_BR[:, 0] for b in batches])
    assert sorted(timesteps.tolist()) == list(range(25, 1000, 50))
    noise = torch.cat([b.target.noise_BHA for b in batches])
    assert len({n.numpy().tobytes() for n in noise}) == 20
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    states = {s.numpy().tobytes() for b in batches for s in b.observation.state_B1A}
    assert len(states) == len(samples.split.heldout) == 5


def test_nothing_is_dropped_jittered_or_disturbed(tiny) -> None:
    samples, conditions, _ = tiny
    for batch in batches_of(ValidationLoss(samples, conditions, torch.device("cpu"))):
        assert torch.equal(batch.observation.jitter_B3, torch.ones_like(batch.observation.jitter_B3))
        assert batch.observation.frames_kept_BVC[:, 1].all()
        assert (batch.observation.state_mask_B1A == batch.observation.state_mask_B1A[:1]).all()
        assert batch.observation.state_mask_B1A.any()


def test_a_damaged_held_out_frame_is_a_failure_with_its_place(prepare, train_here, assets, tmp_path) -> None:
    data = Path(shutil.copytree(assets["dataset"], tmp_path / "data"))
    spec = prepare("damaged", *FEW, dataset=str(data))
    dataset = libero.index(data)
    episode, step = dataset.locate(int(samples_of(dataset, spec.train).split.heldout[0]))
    spoil_frame(data / episode.file, episode.name, step)
    assert train_here(spec) == 1
    assert f"{episode.name}, step" in events(spec, "failed")[0].data["error"]


def spoil_frame(path: Path, episode: str, step: int) -> None:
    """Overwrite the compressed bytes of one frame, as a bad sector would."""
    with h5py.File(path, "r") as file:
        frames = file["data"][episode]["obs/agentview_rgb"]
        where = frames.id.get_chunk_info_by_coord((step, 0, 0, 0))
        assert frames.chunks[0] == 1
    content = bytearray(path.read_bytes())
    content[where.byte_offset:where.byte_offset + where.size] = bytes(np.full(where.size, 7, np.uint8))
    path.write_bytes(content)
