from __future__ import annotations

import numpy as np
import pytest

from rdtops.contract.config import override, preset
from rdtops.trainer.data import libero, slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Samples
from rdtops.trainer.data.split import split


@pytest.fixture
def dataset(demonstrations):
    def made(episodes: int, steps: int = 6) -> libero.Dataset:
        demonstrations.write(episodes=episodes, steps=steps)
        return libero.index(demonstrations.folder)

    return made


@pytest.mark.parametrize(("episodes", "share"), [(2, 0.0), (2, 0.05), (2, 0.1), (2, 0.5), (20, 0.05), (20, 0.3)])
def test_every_sample_is_trained_on_or_held_out_and_never_both(dataset, episodes, share) -> None:
    data = dataset(episodes)
    made = split(data, share, seed=1)
    assert sorted([*made.trained, *made.heldout]) == list(range(len(data)))
    assert len(made.heldout) == pytest.approx(share * len(data), abs=0.5)


def test_whole_episodes_are_held_out_where_there_are_enough(dataset) -> None:
    data = dataset(20)
    made = split(data, 0.1, seed=1)
    assert made.episodes == 2
    names = [{data.locate(int(s))[0].name for s in numbers} for numbers in (made.trained, made.heldout)]
    assert len(names[1]) == 2
    assert not names[0] & names[1]


def test_of_few_episodes_single_samples_are_held_out_and_every_episode_is_trained_on(dataset) -> None:
    data = dataset(2, steps=60)
    made = split(data, 0.05, seed=1)
    assert (made.episodes, len(made.heldout)) == (0, 6)
    assert {data.locate(int(s))[0].name for s in made.trained} == {"demo_0", "demo_1"}


def test_of_data_too_few_to_share_nothing_is_held_out(dataset) -> None:
    assert len(split(dataset(1, steps=4), 0.05, seed=1).heldout) == 0


def test_the_split_is_a_function_of_the_seed(dataset) -> None:
    data = dataset(20)
    first, again, other = (split(data, 0.1, seed).heldout for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("processes", [1, 2])
def test_no_step_of_any_pass_draws_what_is_held_out(dataset, processes) -> None:
    data = dataset(20)
    config = override(preset("tiny"), [f"num_processes={processes}", "heldout_share=0.1"])
    samples = Samples(data, codec("delta_velocity"), slot_statistics.compute(data, codec("delta_velocity")),
                      ["", *data.instructions], 16, 1000, config)
    steps = 3 * len(data) // config.global_batch_size
    drawn = {samples.order.at(step, n) for step in range(1, steps) for n in range(config.global_batch_size)}
    assert drawn == set(samples.split.trained.tolist())
    assert not drawn & set(samples.split.heldout.tolist())
