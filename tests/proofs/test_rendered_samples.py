"""Rendered samples: pictures of what lies elsewhere for a moment, in the real simulator."""

from __future__ import annotations

import numpy as np
import pytest

from proofs.closed_loop import rendered_samples
from proofs.closed_loop.benchmark_config import PROOFS, Place
from proofs.closed_loop.rendered_samples import RenderedSamples, Renderer, Rendering
from proofs.closed_loop.scripted_experts import PutPuddingInTray
from tests.trainer.worlds import needs_simulator

pytestmark = needs_simulator
PICK, PUDDING = PROOFS["pick"], PutPuddingInTray.PUDDING


@pytest.fixture(scope="module")
def wish(tmp_path_factory) -> Rendering:
    return Rendering(Place(tmp_path_factory.mktemp("pick"), PICK).task, PUDDING, PICK.corners_m, 6, seed=3)


@pytest.fixture(scope="module")
def observer(wish) -> Renderer:
    return Renderer(wish)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(rendered_samples, "OF_A_SCENE", 3)


@pytest.mark.usefixtures("few")
def test_a_scene_is_seen_again_as_it_was_and_another_is_another(observer) -> None:
    first, other, again = (observer.scene(number) for number in (0, 1, 0))
    assert np.array_equal(first.frames_GCSS3, again.frames_GCSS3)
    assert np.array_equal(first.object_m_G3, again.object_m_G3)
    assert not np.array_equal(first.frames_GCSS3, other.frames_GCSS3)
    assert other.scene_G.tolist() == [1, 1, 1]


@pytest.mark.usefixtures("few")
def test_the_object_lies_elsewhere_in_each_within_its_region_and_the_hand_moves(observer) -> None:
    seen = observer.scene(2)
    low, high = np.array(PICK.corners_m).reshape(2, 2)
    assert (seen.object_m_G3[:, :2] >= low - 1e-6).all()
    assert (seen.object_m_G3[:, :2] <= high + 1e-6).all()
    assert len(np.unique(seen.object_m_G3[:, 0])) == len(np.unique(seen.hand_m_G3[:, 0])) == 3


def test_what_is_displaced_for_a_moment_is_seen_there_and_leaves_no_trace(observer) -> None:
    world = observer.world
    world.begin(world.drawn(5), 5)
    world.settle()
    before, there_m = world.state, world.body_m_3(PUDDING)
    with world.displaced(PUDDING, there_m[:2]):
        own = world.images().astype(int)
    aside_m = np.array([0, 0.08, 0])
    with world.displaced(PUDDING, (there_m + aside_m)[:2]) as touches:
        assert not touches
        assert np.allclose(world.body_m_3(PUDDING), there_m + aside_m)
        moved = world.images().astype(int)
    assert np.array_equal(world.state, before)
    assert np.array_equal(world.images(), own)
    changed = np.abs(moved - own).sum(-1) > 60
    assert 10 < changed[0].sum() < 800  # there and not there, and nothing else
    hand_m = world.robot().position_m_3
    with world.displaced(PUDDING, hand_m[:2]) as touches:
        assert not touches  # the hand is far above
    while world.robot().position_m_3[2] > there_m[2] + 0.01:
        world.step(np.array([0, 0, -0.5, 0, 0, 0, 1.0]))
    with world.displaced(PUDDING, world.robot().position_m_3[:2]) as touches:
        assert touches


@pytest.mark.usefixtures("few")
def test_they_are_kept_in_a_file(observer, tmp_path) -> None:
    seen = observer.scene(0)
    seen.save(tmp_path / "new" / "glances.npz")
    kept = RenderedSamples.load(tmp_path / "new" / "glances.npz")
    assert all(np.array_equal(array, getattr(kept, name)) for name, array in vars(seen).items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["glances.npz"]


def test_how_many_processes_share_the_work_changes_nothing(wish) -> None:
    alone, shared = (rendered_samples.taken(wish, processes) for processes in (1, 2))
    assert len(alone.frames_GCSS3) == 6
    assert np.array_equal(alone.frames_GCSS3, shared.frames_GCSS3)
