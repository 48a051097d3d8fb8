from __future__ import annotations

import multiprocessing
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from proofs.trainer_bench.speed import as_libero_stores
from rdtops.contract.config import TrainConfig, preset
from rdtops.errors import DataError
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Batch, Order, Samples, Share, batches, collate, feeding
from rdtops.trainer.data.slot_statistics import compute
from tests.trainer.conftest import RECORDING

CODEC = codec("delta_velocity")
TEXTS = ["", "close the top drawer of the cabinet"]
ONE = replace(preset("tiny"), num_processes=1, batch_size_per_process=8, max_steps=6)
PLAIN = replace(ONE, condition_dropout=0.0, image_augmentation=False, state_noise_snr_db=None)


@pytest.fixture(scope="module")
def dataset() -> libero.Dataset:
    return libero.index(RECORDING)


def samples_of(dataset: libero.Dataset, config: TrainConfig, horizon: int = 16) -> Samples:
    return Samples(dataset, CODEC, compute(dataset, CODEC), TEXTS, horizon, 1000, config)


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {**vars(batch.observation), **vars(batch.target)}


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(tensor, tensors(other)[name]) for name, tensor in tensors(one).items())


def test_a_pass_over_the_data_sees_every_sample_once_and_the_next_in_another_order() -> None:
    order = Order(seed=1, samples=24, global_batch=8)
    first, second = ([order.at(step, n) for step in steps for n in range(8)] for steps in ((1, 2, 3), (4, 5, 6)))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert first != [Order(seed=2, samples=24, global_batch=8).at(step, n) for step in (1, 2, 3) for n in range(8)]


def test_a_global_batch_larger_than_the_data_starts_over_within_a_step() -> None:
    order = Order(seed=1, samples=3, global_batch=8)
    seen = [order.at(1, n) for n in range(8)]
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [0, 1, 2]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (4, 2), (1, 8)])
def test_processes_and_micro_batches_share_out_the_same_samples(processes, accumulation) -> None:
    config = replace(ONE, num_processes=processes, gradient_accumulation_steps=accumulation,
                     batch_size_per_process=8 // processes // accumulation)
    for step in (0, 1):
        together = [list(Share(config, rank, 1))[step * accumulation + micro]
                    for micro in range(accumulation) for rank in range(processes)]
        assert [item for share in together for item in share] == [(step + 1, n) for n in range(8)]


def test_every_rank_gets_samples_of_its_own(dataset) -> None:
    config = replace(ONE, num_processes=2, batch_size_per_process=4)
    first, second = (next(batches(samples_of(dataset, config), rank, 1)) for rank in (0, 1))
    assert not torch.equal(first.target.actions_BHA, second.target.actions_BHA)
    assert not torch.equal(first.target.noise_BRHA, second.target.noise_BRHA)


def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(dataset) -> None:
    whole = list(batches(samples_of(dataset, ONE), 0, 1))
    rest = list(batches(samples_of(dataset, ONE), 0, 4))
    assert len(whole) == 6
    assert all(map(equal, whole[3:], rest))
    assert not equal(whole[0], whole[1])


def test_loader_workers_change_nothing(dataset) -> None:
    few = replace(ONE, max_steps=2)
    without = list(batches(samples_of(dataset, few), 0, 1))
    working = list(batches(samples_of(dataset, replace(few, loader_workers=1)), 0, 1))
    assert all(map(equal, without, working))


def test_loader_workers_end_with_the_batches(dataset) -> None:
    reading = batches(samples_of(dataset, replace(ONE, loader_workers=2)), 0, 1)
    next(reading)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    reading.close()
    assert [w for w in workers if w.is_alive()] == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_error_reaches_the_training_as_it_is(demonstrations, workers) -> None:
    path = demonstrations.write()
    broken = libero.index(demonstrations.folder)
    path.unlink()
    samples = samples_of_text(broken, replace(ONE, loader_workers=workers))
    with pytest.raises(DataError, match=r"^task_demo\.hdf5 cannot be opened"), feeding(samples, 0, 1) as read:
        next(read)
    for worker in multiprocessing.active_children():  # it was killed
        worker.join(10)
    assert multiprocessing.active_children() == []


def samples_of_text(dataset: libero.Dataset, config: TrainConfig) -> Samples:
    return Samples(dataset, CODEC, compute(dataset, CODEC), ["", *dataset.instructions], 16, 1000, config)


def test_an_observation_is_followed_by_the_next_action_and_a_padded_tail(demonstrations) -> None:
    demonstrations.write(episodes=1, steps=6, observed="after")
    dataset = libero.index(demonstrations.folder)
    samples = samples_of_text(dataset, PLAIN)
    for start in range(5):
        target = samples.clean(start, seed=0).target
        following = dataset.episodes[0].actions_T7[start + 1:]
        assert target.step_mask_H.tolist() == [True] * len(following) + [False] * (16 - len(following))
        np.testing.assert_allclose(CODEC.decode_actions(target.actions_HA[:len(following)]), following, atol=1e-6)
        assert not target.actions_HA[len(following):].any()


def test_the_steps_that_count_are_known_without_reading(dataset) -> None:
    samples = samples_of(dataset, ONE, horizon=30)
    for step, batch in enumerate(batches(samples, 0, 1), start=1):
        assert samples.valid_steps(step) == int(batch.target.step_mask_BH.sum()) < 8 * 30


def test_history_is_the_frame_before_and_nothing_at_the_start(demonstrations) -> None:
    """A copy of the current frame would look like standing still."""
    demonstrations.write(episodes=1)
    samples = samples_of_text(libero.index(demonstrations.folder), PLAIN)
    start, later = (samples.clean(number, seed=0).observation for number in (0, 3))
    assert start.frames_kept_VC.tolist() == [[False, False], [True, True]]
    assert later.frames_kept_VC.all()
    assert later.frames_VCSS3[:, :, -1, 0, 0].tolist() == [[2, 2], [3, 3]]  # Demonstrations: the row numbers the step


def test_state_and_action_masks_are_those_of_the_codec(dataset) -> None:
    batch = next(batches(samples_of(dataset, PLAIN), 0, 1))
    assert np.array_equal(batch.observation.state_mask_B1A[0, 0].bool(), CODEC.state_mask)
    assert np.array_equal(batch.observation.action_mask_B1A[0, 0].bool(), CODEC.action_mask)


def test_switching_one_disturbance_off_leaves_the_others_as_they_were(dataset) -> None:
    disturbed = next(batches(samples_of(dataset, ONE), 0, 2))
    calm = next(batches(samples_of(dataset, PLAIN), 0, 2))
    for name in ("noise_BRHA", "timesteps_BR", "actions_BHA"):
        assert torch.equal(tensors(disturbed)[name], tensors(calm)[name]), name
    kept = disturbed.observation.frames_kept_BVC
    assert torch.equal(disturbed.observation.frames_BVCSS3[kept], calm.observation.frames_BVCSS3[kept])
    assert not disturbed.observation.frames_BVCSS3[~kept].any()  # they are not read
    assert not kept.all()
    assert not torch.equal(disturbed.observation.state_B1A, calm.observation.state_B1A)
    assert not torch.equal(disturbed.observation.jitter_B3, calm.observation.jitter_B3)
    assert torch.equal(calm.observation.jitter_B3, torch.ones(8, 3))


def test_state_noise_has_the_stated_ratio_to_the_spread_of_the_data(dataset) -> None:
    noisy = replace(PLAIN, state_noise_snr_db=20.0, batch_size_per_process=64)
    calm = replace(noisy, state_noise_snr_db=None)
    pairs = zip(batches(samples_of(dataset, noisy), 0, 1), batches(samples_of(dataset, calm), 0, 1), strict=True)
    added = torch.cat([one.observation.state_B1A - other.observation.state_B1A for one, other in pairs])[:, 0]
    spread = torch.tensor(compute(dataset, CODEC)["state"]["std"])
    used = torch.from_numpy(CODEC.state_mask)
    ratio = added.std(0)[used] / spread[used].clamp_min(1e-9)
    assert ratio == pytest.approx(np.full(len(ratio), 0.1), rel=0.2)  # 20 dB is a tenth in amplitude
    assert not added[:, ~used].any()


def test_conditions_are_dropped_as_often_as_asked(dataset) -> None:
    often = replace(PLAIN, condition_dropout=0.4, batch_size_per_process=64)
    drawn = list(batches(samples_of(dataset, often), 0, 1))
    language = torch.cat([b.observation.instruction_B == 0 for b in drawn]).float().mean().item()
    state = torch.cat([~b.observation.state_mask_B1A.bool().any(-1) for b in drawn]).float().mean().item()
    now = torch.cat([~b.observation.frames_kept_BVC[:, 1] for b in drawn]).float().mean().item()
    assert [language, state, now] == pytest.approx([0.4] * 3, abs=0.08)


def test_a_dropped_state_is_the_mean_and_its_mask_says_so(dataset) -> None:
    samples = samples_of(dataset, replace(PLAIN, condition_dropout=0.5))
    batch = next(batches(samples, 0, 1))
    dropped = ~batch.observation.state_mask_B1A[:, 0].bool().any(-1)
    assert dropped.any()
    assert torch.equal(batch.observation.state_B1A[dropped, 0],
                       torch.from_numpy(samples.state_mean).expand(int(dropped.sum()), -1))
    assert batch.observation.action_mask_B1A.bool().any(-1).all()  # the actions are still to be predicted


def test_a_sample_costs_its_pixels_and_little_more(dataset) -> None:
    """Not 10 MB of float32 pixels through shared memory."""
    batch = collate([samples_of(dataset, PLAIN).clean(5, seed=0)])
    size = sum(tensor.nbytes for tensor in tensors(batch).values())
    assert batch.observation.frames_BVCSS3.nbytes == 4 * 128 * 128 * 3
    assert size < 0.25e6


def test_further_noise_draws_leave_the_first_and_all_else_as_they_were(dataset) -> None:
    one = next(batches(samples_of(dataset, ONE), 0, 1))
    four = next(batches(samples_of(dataset, replace(ONE, noise_draws_per_sample=4)), 0, 1))
    assert four.target.noise_BRHA.shape == (8, 4, 16, 128)
    assert four.target.timesteps_BR.shape == (8, 4)
    assert torch.equal(four.target.noise_BRHA[:, :1], one.target.noise_BRHA)
    assert torch.equal(four.target.timesteps_BR[:, :1], one.target.timesteps_BR)
    assert four.target.timesteps_BR.unique().numel() > 16
    rest = tensors(one).keys() - {"noise_BRHA", "timesteps_BR"}
    assert all(torch.equal(tensors(one)[name], tensors(four)[name]) for name in rest)


def peak_kib(pid: int | str = "self") -> int:
    """The most memory the process ever had."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


@pytest.mark.parametrize("count", [1_500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stored", ["as recorded", "as LIBERO stores it"])
def test_the_loaders_memory_stays_flat(tmp_path, count, stored) -> None:
    """A worker's peak after a third of the samples is its peak after all of them, to 4 MiB: one sample in thirty that
    was not let go of would be more."""
    as_libero_stores(RECORDING, tmp_path)
    data = libero.index(RECORDING if stored == "as recorded" else tmp_path)
    config = replace(ONE, loader_workers=1, batch_size_per_process=10, max_steps=count // 10)
    peaks = []
    for number, batch in enumerate(batches(samples_of(data, config), 0, 1)):
        if number in (count // 30, count // 10 - 2):
            (worker,) = multiprocessing.active_children()
            peaks.append(peak_kib(worker.pid))
        del batch
    assert peaks[1] - peaks[0] < 4096, peaks
