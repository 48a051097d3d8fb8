"""Policies that drive: told what training was told, decoded when it is their turn, and what the numbers are worth."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from proofs.closed_loop.scripted_experts import CloseTopDrawer
from rdtops.contract.config import preset
from rdtops.errors import SimulatorError
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.observation import ObservationBatch
from rdtops.trainer.data.samples import Samples, collate
from rdtops.trainer.data.slot_statistics import compute
from rdtops.trainer.model import encoders
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy
from rdtops.trainer.simulation import rollout
from tests.trainer.conftest import RECORDING
from tests.trainer.worlds import needs_simulator


def moving_policy(assets):
    policy = RDTPolicy.from_pretrained(assets["pretrained"])
    torch.nn.init.eye_(policy.model.final_layer.ffn_final.fc2.weight)  # from scratch it is zero, and so are all actions
    return policy


def felt(episode, now):
    return SimpleNamespace(joint_rad_7=episode.joint_rad_T7[now], finger_m_2=episode.finger_m_T2[now],
                           position_m_3=episode.position_m_T3[now], axis_angle_rad_3=episode.axis_angle_rad_T3[now])


def driver_of(assets, tmp_path, name, instruction):
    using, cpu = codec(name), torch.device("cpu")
    texts = encoders.encode_instructions(assets["text_encoder"], [instruction], tmp_path, cpu)
    conditions = Conditions(texts, assets["vision_encoder"], using.control_hz, cpu, torch.float32)
    return rollout.Driver(moving_policy(assets), conditions, using, instruction, seed=0)


@pytest.mark.parametrize(("successes", "trials", "interval"), [
    (0, 20, (0.0, 0.1611)), (10, 20, (0.2993, 0.7007)), (18, 20, (0.6990, 0.9721)), (20, 20, (0.8389, 1.0))])
def test_wilson_s_interval_is_that_of_the_tables(successes, trials, interval) -> None:
    assert rollout.wilson(successes, trials) == pytest.approx(interval, abs=1e-4)


def test_a_driver_is_told_what_the_training_was_told(assets, tmp_path) -> None:
    dataset, using, cpu = libero.index(RECORDING), codec("delta_velocity"), torch.device("cpu")
    texts = encoders.encode_instructions(assets["text_encoder"], dataset.instructions, tmp_path, cpu)
    conditions = Conditions(texts, assets["vision_encoder"], using.control_hz, cpu, torch.float32)
    samples = Samples(dataset, using, compute(dataset, using), conditions.texts, 16, 1000, preset("tiny"))
    learnt = collate([samples.clean(20, seed=0)])
    episode, now = dataset.locate(20)
    policy = moving_policy(assets)
    driver = rollout.Driver(policy, conditions, using, episode.instruction, seed=0)
    robot = felt(episode, now)
    frames = learnt.observation.frames_BVCSS3[0].numpy()
    told = ObservationBatch.of([driver.observation(robot, frames)])
    for name in {f.name for f in fields(told)} - {"sample_B"}:
        assert torch.equal(getattr(told, name), getattr(learnt.observation, name)), name
    chunk = driver.decide(robot, frames, trial=30, decision=0)
    assert chunk.shape == (16, 128)
    assert np.array_equal(chunk, driver.decide(robot, frames, trial=30, decision=0))
    assert not np.array_equal(chunk, driver.decide(robot, frames, trial=30, decision=1))
    actions = np.stack([driver.act(slots, robot) for slots in chunk])
    assert actions.shape == (16, 7)
    assert 0 < np.abs(actions).max() <= 1


def test_an_absolute_target_is_decoded_with_the_pose_of_its_turn(assets, tmp_path) -> None:
    episode = libero.index(RECORDING).episodes[0]
    driver = driver_of(assets, tmp_path, "absolute_pose", episode.instruction)
    now = slice(20, 36)
    chunk = driver.codec.encode_actions(episode.actions_T7[now.start + episode.lead:][:16], episode.pose_T6[now])
    robots = [felt(episode, step) for step in range(now.start, now.stop)]
    actions = np.stack([driver.act(slots, robot) for slots, robot in zip(chunk, robots, strict=True)])
    np.testing.assert_allclose(actions, episode.actions_T7[now.start + episode.lead:][:16], atol=1e-5)
    behind = SimpleNamespace(**{**vars(robots[3]), "position_m_3": robots[3].position_m_3 - [0.01, 0, 0]})
    assert driver.act(chunk[3], behind)[0] == pytest.approx(min(1, actions[3, 0] + 0.2), abs=1e-5)


def test_an_action_that_is_no_number_never_reaches_the_simulator(assets, tmp_path) -> None:
    episode = libero.index(RECORDING).episodes[0]
    driver = driver_of(assets, tmp_path, "delta_velocity", episode.instruction)
    with pytest.raises(SimulatorError, match="not finite"):
        driver.act(np.full(128, np.nan, np.float32), felt(episode, 0))


@needs_simulator
@pytest.mark.parametrize("name", ["delta_velocity", "absolute_pose"])
def test_the_experts_actions_close_the_drawer_through_each_codec(name, world, assets, tmp_path) -> None:
    """What the expert wants, through the slots and back, as a policy that learnt it would say it."""
    driver = driver_of(assets, tmp_path, name, world.task.language)
    expert = CloseTopDrawer(np.random.default_rng(0))

    def say(robot, frames, trial, decision):
        assert frames.shape == (2, 2, 128, 128, 3)
        assert not np.array_equal(frames[0], frames[1])
        pose = np.concatenate([robot.position_m_3, robot.axis_angle_rad_3])
        return driver.codec.encode_actions(expert.act(world)[None], pose[None])

    driver.decide = say
    told = []
    steps = rollout.rollout(world, driver, world.task.initial_states()[0], 0, 1, 100,
                            on_step=lambda step, done: told.append((step, done)))
    assert steps is not None
    assert told == [*((n, False) for n in range(1, steps)), (steps, True)]
