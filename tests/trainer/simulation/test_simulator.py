"""The simulator wrapped: the same numbers as LIBERO's own, and an episode that depends on nothing but its inputs."""

import sys

import numpy as np
import pytest

from proofs.closed_loop.scripted_experts import CloseTopDrawer
from rdtops.errors import ConfigError, SimulatorError
from rdtops.trainer.simulation import simulator
from tests.trainer.worlds import DRAWER, needs_simulator


@pytest.fixture(scope="module")
def states(world):
    return world.task.initial_states()


def actions(seed, steps):
    random = np.random.default_rng(seed)
    return [np.append(random.uniform(-1, 1, 6), random.choice([-1.0, 1.0])) for _ in range(steps)]


def driven(world, state, seed, steps=25):
    world.begin(state, seed)
    found = []
    for action in actions(seed, steps):
        world.step(action)
        found.append(world.state)
    return np.stack(found)


@needs_simulator
def test_cameras_see_the_robot_and_not_the_green_and_blue_shapes_that_stand_for_it_in_collisions(world, states):
    world.begin(states[0], 0)
    world.settle(2)
    outside = world.images()[0].astype(int)
    robot = outside[:40, 44:84]  # it is white, and stands in the middle
    assert (robot[..., 1] - np.maximum(robot[..., 0], robot[..., 2])).max() < 50
    assert (robot.min(axis=-1) > 150).sum() > 150


@needs_simulator
def test_observations_are_those_of_liberos_own_environment(world, states):
    from libero.libero.envs import OffScreenRenderEnv

    theirs = OffScreenRenderEnv(bddl_file_name=world.task.bddl_file, camera_heights=128, camera_widths=128,
                                hard_reset=False)
    theirs.seed(3)
    theirs.reset()
    theirs.sim._render_context_offscreen.vopt.geomgroup[0] = 0  # as robosuite means it, see Simulator._reset
    theirs.env.robots[0].gripper.current_action = np.zeros(2)
    theirs.set_state(states[4])
    theirs.sim.forward()
    world.begin(states[4], 3)
    for action in actions(0, 3):
        seen = theirs.step(action)[0]
        world.step(action)
        robot = world.robot()
        assert (theirs.get_sim_state() == world.state).all()
        assert (robot.joint_rad_7 == seen["robot0_joint_pos"]).all()
        assert (robot.finger_m_2 == seen["robot0_gripper_qpos"]).all()
        assert (robot.position_m_3 == seen["robot0_eef_pos"]).all()
        assert (robot.quaternion_xyzw_4 == seen["robot0_eef_quat"]).all()
        for image, camera in zip(world.images(), simulator.CAMERAS, strict=True):
            assert (image == seen[f"{camera}_image"][::-1]).all()
    theirs.close()


@needs_simulator
def test_an_episode_depends_on_its_state_seed_and_actions_only(world, states):
    first = driven(world, states[0], seed=1)
    other = driven(world, states[7], seed=2)
    assert (driven(world, states[0], seed=1) == first).all()
    assert (driven(world, states[7], seed=2) == other).all()


@needs_simulator
def test_the_seed_places_the_furniture(world, states):
    places = []
    for seed in (1, 2, 1):
        world.begin(states[0], seed)
        places.append(world.body_m_3("wooden_cabinet_1_main"))
    assert (places[0] == places[2]).all()
    assert 0 < np.abs(places[0] - places[1]).max() < 0.03


@needs_simulator
def test_a_world_rebuilt_from_its_model_file_has_the_same_masses(world, states):
    import mujoco

    world.begin(states[0], 0)
    model = world._env.sim.model._model
    rebuilt = mujoco.MjModel.from_xml_string(world.model_xml())
    np.testing.assert_allclose(rebuilt.body_mass, model.body_mass, rtol=1e-6)
    np.testing.assert_allclose(rebuilt.body_inertia, model.body_inertia, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(rebuilt.body_pos, model.body_pos, atol=1e-5)
    as_saved = mujoco.MjModel.from_xml_string(world.model_xml().replace(' inertiagrouprange="0 0"', ""))
    assert as_saved.body_mass.sum() > 1.1 * model.body_mass.sum()  # what LIBERO's own files say


def closed_by_the_expert(world, state, seed):
    world.begin(state, seed)
    world.settle()
    expert = CloseTopDrawer(np.random.default_rng(seed))
    return any(world.step(expert.act(world)) for _ in range(100))


@needs_simulator
def test_the_expert_closes_the_drawer(world, states):
    assert all(closed_by_the_expert(world, states[number], number) for number in (0, 17, 49))


@needs_simulator
@pytest.mark.slow
def test_the_expert_closes_the_drawer_from_every_initial_state(world, states):
    assert [number for number in range(50) if not closed_by_the_expert(world, states[number], number)] == []


@needs_simulator
def test_tasks_are_chosen_by_count_number_or_name():
    assert [t.number for t in simulator.tasks("libero_90", "2")] == [0, 1]
    assert [t.number for t in simulator.tasks("libero_10", "3,7")] == [3, 7]
    assert [t.name for t in simulator.tasks("libero_90", "top_drawer_of_the_cabinet_and_put_the_black_bowl")] == [
        f"{DRAWER}_and_put_the_black_bowl_on_top_of_it"]
    assert len(simulator.tasks("libero_spatial")) == 10
    assert simulator.tasks("libero_90", DRAWER)[0].language == "close the top drawer of the cabinet"


@needs_simulator
def test_an_unknown_task_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=rf"(?s)no task called 'fly'.*0 {DRAWER}"):
        simulator.tasks("libero_90", "fly")
    with pytest.raises(ConfigError, match="has 10 tasks, but 11"):
        simulator.tasks("libero_10", "11")


def test_an_unknown_benchmark_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'libero_90'.*libero_spatial, libero_object"):
        simulator.tasks("libero90")


def test_a_missing_simulator_names_the_extra_and_the_system_packages(monkeypatch):
    monkeypatch.setattr(simulator, "PACKAGES", ("no_such_package",))
    with pytest.raises(SimulatorError, match=f"not installed in {sys.executable}: no no_such_package") as caught:
        simulator.tasks("libero_90")
    assert "[trainer,eval]" in caught.value.remedy
    assert "apt-get install libegl1" in caught.value.remedy


