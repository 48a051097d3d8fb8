"""Demonstrations made here: in LIBERO's schema, true to the simulation, and replayable."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import rdtops.lab
from proofs.closed_loop import recording
from rdtops.errors import SimulatorError
from rdtops.trainer.data import libero
from rdtops.trainer.simulation import simulator
from tests.trainer.worlds import DRAWER, needs_simulator

pytestmark = needs_simulator
LIBEROS_OWN = Path(rdtops.lab.__file__).parent / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One demonstration with images, two without."""
    folder = tmp_path_factory.mktemp("recorded")
    task = simulator.tasks("libero_90", DRAWER)[0]
    recording.record(folder / "seen" / "a.hdf5", recording.Recording(task, demos=1, seed=5))
    blank = recording.Recording(task, demos=2, seed=5, blank_images=True)
    recording.record(folder / "blank" / "a.hdf5", blank, processes=2)
    return folder


@pytest.fixture(scope="module")
def demo(folder):
    with h5py.File(folder / "seen" / "a.hdf5") as file:
        yield file["data/demo_0"]


def test_replayed_actions_give_the_recorded_states_observations_and_success(demo, world):
    world.begin(demo.attrs["init_state"], int(demo.attrs["seed"]), settled=True)
    done = False
    for step, action in enumerate(demo["actions"]):
        assert (world.state == demo["states"][step]).all()
        done = world.step(action)
        assert (world.robot().joint_rad_7 == demo["obs/joint_states"][step]).all()
        assert (world.robot().axis_angle_rad_3 == demo["obs/ee_ori"][step]).all()
        if step % 20 == 1:
            assert (world.images()[:, ::-1] == [demo[f"obs/{camera}"][step] for camera in libero.CAMERAS]).all()
    assert done


def test_replayed_actions_succeed_in_a_world_rebuilt_from_the_model_file(demo, world):
    """As LIBERO's own tools replay."""
    from libero.libero.envs.env_wrapper import ControlEnv

    rebuilt = ControlEnv(bddl_file_name=world.task.bddl_file, use_camera_obs=False, has_offscreen_renderer=False,
                         ignore_done=True)
    rebuilt.reset_from_xml_string(demo.attrs["model_file"])
    rebuilt.sim.reset()
    rebuilt.set_init_state(demo.attrs["init_state"])
    done = [rebuilt.step(action)[2] for action in demo["actions"]]
    rebuilt.close()
    assert any(done)


def test_it_has_the_schema_of_liberos_own_file(folder):
    with h5py.File(folder / "seen" / "a.hdf5") as ours, h5py.File(next(LIBEROS_OWN.glob("*.hdf5"))) as theirs:
        def described(file):
            items = {}
            file["data/demo_0"].visititems(lambda name, item: items.update(
                {name: (item.dtype, item.shape[1:])} if isinstance(item, h5py.Dataset) else {}))
            return items

        assert described(ours) == described(theirs)
        assert ours["data/demo_0/obs/agentview_rgb"].chunks is None  # contiguous and uncompressed, as LIBERO's are
        assert set(theirs["data"].attrs) <= set(ours["data"].attrs)
        assert set(theirs["data/demo_0"].attrs) <= set(ours["data/demo_0"].attrs)
        assert json.loads(ours["data"].attrs["problem_info"]) == json.loads(theirs["data"].attrs["problem_info"])


def test_the_trainer_reads_it(folder):
    for kind in ("seen", "blank"):
        dataset = libero.index(folder / kind)
        assert dataset.episodes[0].observed == libero.AFTER
        assert dataset.instructions == ("close the top drawer of the cabinet",)
        frames = libero.Frames(dataset).read(dataset.episodes[0], 3)
        assert frames.any() == (kind == "seen")


def test_without_images_the_same_is_recorded_in_a_small_file(folder):
    with h5py.File(folder / "seen" / "a.hdf5") as seen, h5py.File(folder / "blank" / "a.hdf5") as blank:
        for name in ("actions", "states", "obs/ee_pos"):
            assert (seen[f"data/demo_0/{name}"][()] == blank[f"data/demo_0/{name}"][()]).all()
        assert not np.array_equal(blank["data/demo_1/states"][0], blank["data/demo_0/states"][0])
    assert (folder / "blank" / "a.hdf5").stat().st_size < 1e6


def test_a_task_without_an_expert_names_those_with_one(capsys):
    assert recording.main(["x.hdf5", "--benchmark", "libero_10", "--task", "put_both_moka_pots_on_the_stove"]) == 2
    assert f"tasks with one: {DRAWER}" in capsys.readouterr().err


def test_an_expert_that_keeps_failing_is_an_error(monkeypatch):
    monkeypatch.setattr(recording, "LONGEST", 5)
    recorder = recording.Recorder(recording.Recording(simulator.tasks("libero_90", DRAWER)[0], blank_images=True))
    with pytest.raises(SimulatorError, match="the expert failed 10 times at demonstration 3"):
        recorder.demonstration(3)


def test_what_could_not_be_recorded_leaves_no_file(tmp_path, monkeypatch):
    def fails(wish, processes):
        raise SimulatorError("the expert failed")
        yield

    monkeypatch.setattr(recording, "demonstrations", fails)
    with pytest.raises(SimulatorError):
        recording.record(tmp_path / "a.hdf5", recording.Recording(simulator.tasks("libero_90", DRAWER)[0]))
    assert list(tmp_path.iterdir()) == []
