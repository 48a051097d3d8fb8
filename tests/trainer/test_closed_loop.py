"""Policies that drive: the losses compared in the real simulator, and what the numbers are worth."""

from __future__ import annotations

import json
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdtops.contract.config import preset
from rdtops.trainer import closed_loop, encoders, libero, statistics
from rdtops.trainer.actions import codec
from rdtops.trainer.batch import Samples, collate
from rdtops.trainer.conditions import Conditions
from rdtops.trainer.rdt import RDTPolicy
from tests.trainer.conftest import RECORDING
from tests.trainer.worlds import needs_simulator


@pytest.mark.parametrize(("successes", "trials", "interval"), [
    (0, 20, (0.0, 0.1611)), (10, 20, (0.2993, 0.7007)), (18, 20, (0.6990, 0.9721)), (20, 20, (0.8389, 1.0))])
def test_wilson_s_interval_is_that_of_the_tables(successes, trials, interval) -> None:
    assert closed_loop.wilson(successes, trials) == pytest.approx(interval, abs=1e-4)


NOT_KNOWN_YET = ("sample_B", "actions_BHA", "step_mask_BH")


def test_a_driver_is_told_what_the_training_was_told(assets, tmp_path) -> None:
    dataset, using, cpu = libero.index(RECORDING), codec("delta_velocity"), torch.device("cpu")
    texts = encoders.encode_instructions(assets["text_encoder"], dataset.instructions, tmp_path, cpu)
    conditions = Conditions(texts, assets["vision_encoder"], using.control_hz, cpu, torch.float32)
    samples = Samples(dataset, using, statistics.compute(dataset, using), conditions.texts, 16, 1000, preset("tiny"))
    learnt = collate([samples.clean(20, seed=0)])
    episode, now = dataset.locate(20)
    policy = RDTPolicy.from_pretrained(assets["pretrained"])
    torch.nn.init.eye_(policy.model.final_layer.ffn_final.fc2.weight)  # from scratch it is zero, and so are all actions
    driver = closed_loop.Driver(policy, conditions, using, episode.instruction, seed=0)
    robot = SimpleNamespace(joint_rad_7=episode.joint_rad_T7[now], finger_m_2=episode.finger_m_T2[now],
                            position_m_3=episode.position_m_T3[now], axis_angle_rad_3=episode.axis_angle_rad_T3[now])
    frames = learnt.frames_BVCSS3[0].numpy()
    told = driver._batch(robot, frames, learnt.noise_BHA[0].numpy())
    for name in {f.name for f in fields(told)} - set(NOT_KNOWN_YET):
        assert torch.equal(getattr(told, name), getattr(learnt, name)), name
    actions = driver.decide(robot, frames, trial=30, decision=0)
    assert actions.shape == (16, 7)
    assert np.abs(actions).max() <= 1
    assert np.array_equal(actions, driver.decide(robot, frames, trial=30, decision=0))
    assert not np.array_equal(actions, driver.decide(robot, frames, trial=30, decision=1))


@pytest.mark.slow
@needs_simulator
def test_a_policy_trained_with_each_loss_drives_and_an_untrained_one_gets_nowhere(capsys) -> None:
    assert closed_loop.main(["--steps", "400", "--every", "400", "--seeds", "1", "--trials", "2"]) == 0
    untrained, published, normalised = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (untrained["loss"], untrained["successes"]) == ("untrained", 0)
    assert (published["loss"], normalised["loss"]) == ("published", "normalised")
    assert published["successes"] + normalised["successes"] > 0
    for row in (published, normalised):
        assert row["action_mse"] < 0.3
        assert sum(steps is not None for steps in row["steps_to_success"]) == row["successes"]
