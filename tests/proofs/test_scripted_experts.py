"""The expert that picks up what lies elsewhere in each start: it succeeds, and would not if it did not know where."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from proofs.closed_loop import recording
from proofs.closed_loop.benchmark_config import PROOFS, Place
from proofs.closed_loop.scripted_experts import PutPuddingInTray
from rdtops.trainer.simulation import simulator
from rdtops.trainer.simulation.simulator import Simulator
from tests.trainer.worlds import needs_simulator

pytestmark = needs_simulator
LONGEST = 120
PICK = PROOFS["pick"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("pick"), PICK)


@pytest.fixture(scope="module")
def pick(place) -> Simulator:
    return Simulator(place.task, images=False)


def begun(pick: Simulator, seed: int) -> np.ndarray:
    """Where the pudding lies, in m."""
    pick.begin(pick.drawn(seed), seed)
    pick.settle()
    return pick.body_m_3(PutPuddingInTray.PUDDING)


def succeeds(pick: Simulator, guess_m: np.ndarray | None = None) -> bool:
    expert = PutPuddingInTray(np.random.default_rng(0))
    expert.guess_m = guess_m
    return any(pick.step(expert.act(pick)) for _ in range(LONGEST))


def test_the_pudding_lies_elsewhere_in_each_start_within_the_region(pick) -> None:
    lies_m = np.array([begun(pick, seed)[:2] for seed in range(12)])
    low, high = np.array(PICK.corners_m).reshape(2, 2)
    assert (lies_m > low - 0.002).all()
    assert (lies_m < high + 0.002).all()
    assert (np.ptp(lies_m, axis=0) > (high - low) / 2).all()


def test_another_region_leaves_the_benchmarks_own_file_as_it_is(place) -> None:
    own = simulator.tasks("libero_90", PICK.task)[0]
    theirs, ours = (Path(task.bddl_file).read_text() for task in (own, place.task))
    assert theirs != ours
    changed = [(a, b) for a, b in zip(theirs.splitlines(), ours.splitlines(), strict=True) if a != b]
    assert [b.split() for _, b in changed] == [["(0.02", "-0.16", "0.14", "0.06)"]]


def test_it_succeeds_where_one_who_guesses_the_middle_fails(pick) -> None:
    low, high = np.array(PICK.corners_m).reshape(2, 2)
    for seed in (1, 2, 11):
        pudding_m = begun(pick, seed)
        guess_m = np.append((low + high) / 2, pudding_m[2])
        assert np.abs(guess_m - pudding_m)[1] > 0.02, "choose another seed: here it lies in the middle"
        assert not succeeds(pick, guess_m)
        begun(pick, seed)
        assert succeeds(pick)


def test_a_hand_that_starts_elsewhere_gets_there_before_the_demonstration_which_can_be_replayed(place, pick) -> None:
    out = place.folder / "a.hdf5"
    recording.record(out, recording.Recording(place.task, 2, 0, seed=1, noise=0.0, blank_images=True, elsewhere=1.0))
    begun(pick, 0)
    home_m = pick.robot().position_m_3
    with h5py.File(out) as file:
        for demo in file["data"].values():
            assert np.linalg.norm(demo["obs/ee_pos"][0] - home_m) > 0.05
            pick.begin(demo.attrs["init_state"], int(demo.attrs["seed"]), settled=True)
            assert sum(pick.step(action) for action in demo["actions"]) > 0
            assert (pick.robot().joint_rad_7 == demo["obs/joint_states"][-1]).all()
