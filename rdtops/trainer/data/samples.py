"""Samples and batches of a training. Every random draw is a function of (seed, step, sample) alone.

A step learns from `global_batch` samples, numbered from 0; no draw depends on the process that works on number n.
So a resumed run continues bit-equal, and the number of processes does not change the result.

Shapes: B samples, R noise draws of each, H actions of a chunk, A slots (128), V history frames (2), C existing
cameras (2), K kept frames, S pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from rdtops.contract.config import TrainConfig
from rdtops.errors import DataError
from rdtops.trainer import child_processes, stacks
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import SLOTS, Codec
from rdtops.trainer.data.feature_file import FeatureFile
from rdtops.trainer.data.observation import HISTORY, NO_INSTRUCTION, Observation, ObservationBatch, Tensors, stacked
from rdtops.trainer.data.slot_statistics import slot_weights
from rdtops.trainer.data.split import split

JITTER = 0.3  # brightness, contrast and saturation, each within 1 +- this, in half of the samples
_ORDER, _SAMPLE = 0, 1  # separate the two kinds of draws


@dataclass(frozen=True)
class Target:
    """The training target of an observation, and the draws of the diffusion."""

    actions_HA: np.ndarray
    step_mask_H: np.ndarray  # False after the end of the episode
    noise_RHA: np.ndarray
    timesteps_R: np.ndarray


@dataclass(frozen=True)
class Sample:
    observation: Observation
    target: Target

    def with_draw(self, noise_HA: np.ndarray, timestep: int) -> Sample:
        """Return the same sample with this single draw."""
        return replace(self, target=replace(self.target, noise_RHA=noise_HA[None], timesteps_R=np.array([timestep])))


@dataclass(frozen=True)
class TargetBatch(Tensors):
    actions_BHA: torch.Tensor
    step_mask_BH: torch.Tensor
    noise_BRHA: torch.Tensor
    timesteps_BR: torch.Tensor

    @property
    def noise_BHA(self) -> torch.Tensor:
        """The noise of the first draw."""
        return self.noise_BRHA[:, 0]

    def arguments(self) -> dict[str, torch.Tensor]:
        """Return the keyword arguments of `loss`, except those of the observation."""
        return {"action_gt": self.actions_BHA, "noise": self.noise_BRHA, "timesteps": self.timesteps_BR,
                "step_mask": self.step_mask_BH}


@dataclass(frozen=True)
class Batch:
    observation: ObservationBatch
    target: TargetBatch

    def to(self, device: torch.device) -> Batch:
        return Batch(self.observation.to(device), self.target.to(device))

    def pin_memory(self) -> Batch:
        """Pin the memory. The DataLoader calls this method by its name."""
        return Batch(self.observation.pin_memory(), self.target.pin_memory())


class Order:
    """The order of samples: which sample of the dataset is number n of step s. Each pass over the data, or over the
    given samples, has a new permutation."""

    def __init__(self, seed: int, samples: int | np.ndarray, global_batch: int) -> None:
        self.seed, self.samples, self.global_batch = seed, samples, global_batch
        self._count = samples if isinstance(samples, int) else len(samples)
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def at(self, step: int, number: int) -> int:
        """Return sample `number` of a step. Steps count from 1."""
        epoch, place = divmod((step - 1) * self.global_batch + number, self._count)
        return int(self._permutation(epoch)[place])

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.samples)

    def __getstate__(self) -> dict[str, Any]:
        return {"seed": self.seed, "samples": self.samples, "global_batch": self.global_batch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class Samples(torch.utils.data.Dataset):
    """Item (step, number) is one sample with all its draws."""

    def __init__(self, dataset: libero.Dataset, codec: Codec, statistics: dict[str, Any], texts: list[str],
                 horizon: int, diffusion_steps: int, config: TrainConfig) -> None:
        self.dataset, self.codec, self.texts = dataset, codec, texts
        self.horizon, self.diffusion_steps, self.config = horizon, diffusion_steps, config
        self.split = split(dataset, config.heldout_share, config.seed)
        self.order = Order(config.seed, self.split.trained, config.global_batch_size)
        self.frames = libero.Frames(dataset)
        self.features: FeatureFile | None = None  # the encoder's output for every frame, if it is cached
        self.state_mean = np.asarray(statistics["state"]["mean"], np.float32)
        self.state_std = np.asarray(statistics["state"]["std"], np.float32)
        self.slot_weights: torch.Tensor | None = None  # of the normalised loss
        if config.loss == "normalised":
            self.slot_weights = torch.from_numpy(slot_weights(statistics, codec.action_mask))

    def __getitem__(self, item: tuple[int, int]) -> Sample | DataError:
        """Return a DataError instead of raising it: the DataLoader would hide it in its own traceback."""
        step, number = item
        try:
            return self._drawn(self.at(step, number), np.random.default_rng(
                (self.config.seed, _SAMPLE, step, number)))
        except DataError as error:
            return error

    def at(self, step: int, number: int) -> int:
        """Return which sample of the dataset is number n of step s."""
        return self.order.at(step, number)

    def valid_steps(self, step: int) -> int:
        """Count how many actions of all chunks of a step lie within their episodes, over all processes."""
        return sum(self.valid_steps_of(self.at(step, n)) for n in range(self.config.global_batch_size))

    def valid_steps_of(self, sample: int) -> int:
        """Count how many actions of a sample's chunk lie within its episode."""
        episode, start = self.dataset.locate(sample)
        return min(self.horizon, episode.starts - start)

    def name(self, step: int, number: int) -> str:
        """Return file, episode and step of a sample, for messages."""
        episode, observed = self.dataset.locate(self.at(step, number))
        return f"{episode.file}: {episode.name}, step {observed}"

    def clean(self, sample: int, seed: int) -> Sample:
        """Return a sample as recorded: nothing dropped, jittered or disturbed."""
        noise = np.random.default_rng((seed, _SAMPLE, sample)).standard_normal((self.horizon, SLOTS), np.float32)
        return self._recorded(sample, noise[None], np.array([0]))

    def _drawn(self, sample: int, random: np.random.Generator) -> Sample:
        """Draw in a fixed order, whether a draw is used or not: disabling one does not change the others. So
        further draws of noise come last."""
        noise = random.standard_normal((self.horizon, SLOTS), np.float32)
        timestep = int(random.integers(self.diffusion_steps))
        disturbance = random.standard_normal(SLOTS, np.float32)
        language, state, *frames = random.random(2 + HISTORY * len(libero.CAMERAS)) < self.config.condition_dropout
        is_jittered, jitter = random.random() < 0.5, random.uniform(1 - JITTER, 1 + JITTER, 3).astype(np.float32)

        more = self.config.noise_draws_per_sample - 1
        more_noise = random.standard_normal((more, self.horizon, SLOTS), np.float32)
        more_timesteps = random.integers(self.diffusion_steps, size=more)

        drawn = self._recorded(sample, np.concatenate([noise[None], more_noise]),
                               np.concatenate([[timestep], more_timesteps]),
                               dropped_VC=np.reshape(frames, (HISTORY, len(libero.CAMERAS))),
                               jitter_3=jitter if self.config.image_augmentation and is_jittered else None)
        told = drawn.observation
        if self.config.state_noise_snr_db is not None:
            share = 10 ** (-self.config.state_noise_snr_db / 20)  # of the slot's spread in the data
            told = replace(told, state_A=told.state_A + disturbance * self.state_std * np.float32(share))
        if language:
            told = replace(told, instruction=self.texts.index(NO_INSTRUCTION))
        if state:
            told = replace(told, state_A=self.state_mean, state_mask_A=np.zeros(SLOTS, np.float32))
        return Sample(told, drawn.target)

    def _recorded(self, sample: int, noise_RHA: np.ndarray, timesteps_R: np.ndarray, *,
                  dropped_VC: np.ndarray | None = None, jitter_3: np.ndarray | None = None) -> Sample:
        """Read a sample. Of its images only what the model is to see is read: pixels, or tokens where there are some of
        unchanged frames."""
        episode, now = self.dataset.locate(sample)
        kept_VC = np.repeat([[now > 0], [True]], len(libero.CAMERAS), axis=1)
        if dropped_VC is not None:
            kept_VC &= ~dropped_VC
        features = self.features.tokens(sample, kept_VC) if self.features and jitter_3 is None else None
        state_A = self._state(episode, now)
        told = Observation.undisturbed(
            self.codec, state_A, self._frames(episode, now, kept_VC & (features is None)), kept_VC,
            self.texts.index(episode.instruction), sample)
        told = replace(told, features=features, jitter_3=told.jitter_3 if jitter_3 is None else jitter_3)
        return Sample(told, self._target(episode, now, noise_RHA, timesteps_R))

    def _state(self, episode: libero.Episode, now: int) -> np.ndarray:
        here = slice(now, now + 1)
        return self.codec.encode_state(episode.joint_rad_T7[here], episode.finger_m_T2[here],
                                       episode.position_m_T3[here], episode.axis_angle_rad_T3[here])[0]

    def _target(self, episode: libero.Episode, now: int, noise_RHA: np.ndarray, timesteps_R: np.ndarray) -> Target:
        following = episode.actions_T7[now + episode.lead:][:self.horizon]
        actions_HA = np.zeros((self.horizon, SLOTS), np.float32)
        actions_HA[:len(following)] = self.codec.encode_actions(following, episode.pose_T6[now:now + len(following)])
        return Target(actions_HA, np.arange(self.horizon) < len(following), noise_RHA, timesteps_R)

    def _frames(self, episode: libero.Episode, now: int, wanted_VC: np.ndarray) -> np.ndarray:
        """Return the previous and the current frame, zero where not wanted."""
        if self.features and not self.config.image_augmentation:  # no sample has pixels
            return np.empty((*wanted_VC.shape, 0, 0, 3), np.uint8)
        return np.stack([self.frames.read(episode, max(step, 0), wanted_C)
                         for step, wanted_C in zip((now - 1, now), wanted_VC, strict=True)])


def collate(samples: Sequence[Sample]) -> Batch:
    targets = [sample.target for sample in samples]
    return Batch(
        ObservationBatch.of([sample.observation for sample in samples]),
        TargetBatch(actions_BHA=stacked(t.actions_HA for t in targets),
                    step_mask_BH=stacked(t.step_mask_H for t in targets),
                    noise_BRHA=stacked(t.noise_RHA for t in targets),
                    timesteps_BR=stacked(t.timesteps_R for t in targets)))


@dataclass(frozen=True)
class Share:
    """The (step, number) lists of one process, one for each micro-batch, from `first_step` on."""

    config: TrainConfig
    rank: int
    first_step: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.config.max_steps + 1):
            for micro in range(self.config.gradient_accumulation_steps):
                yield [(step, n) for n in self.numbers(micro)]

    def numbers(self, micro: int) -> range:
        size = self.config.batch_size_per_process
        start = (micro * self.config.num_processes + self.rank) * size
        return range(start, start + size)


def _collate_or_error(samples: list[Sample | DataError]) -> Batch | DataError:
    errors = [s for s in samples if isinstance(s, DataError)]
    return errors[0] if errors else collate(samples)  # type: ignore[arg-type]


def _begin_worker(_number: int) -> None:
    child_processes.end_with_parent()
    stacks.write_on_request()


@contextmanager
def feeding(samples: Samples, rank: int, first_step: int) -> Iterator[Iterator[Batch]]:
    """Yield the batches up to max_steps, and end their workers in the end. After an error they are killed, because one
    may be what hangs."""
    data = batches(samples, rank, first_step)
    try:
        yield data
    except BaseException:
        child_processes.kill_workers()
        raise
    data.close()


def batches(samples: Samples, rank: int, first_step: int) -> Generator[Batch, None, None]:
    """Yield batches up to max_steps. Closing the generator ends its workers. Raise DataError when a sample cannot be
    read."""
    config = samples.config
    loader = torch.utils.data.DataLoader(
        samples, batch_sampler=Share(config, rank, first_step), collate_fn=_collate_or_error,
        num_workers=config.loader_workers, pin_memory=config.device == "cuda",
        # a fork would copy the locks of HDF5 and NCCL in any state; a fork server would outlive us with its workers
        multiprocessing_context="spawn" if config.loader_workers else None, worker_init_fn=_begin_worker,
        generator=torch.Generator())  # our own, because the DataLoader draws a seed from it
    with child_processes.shielded():
        read = iter(loader)
    for batch in read:
        if isinstance(batch, DataError):
            raise batch
        yield batch
