"""What went wrong in the training that this project takes over, one test a failure. Each would have caught it there.

What went wrong in its evaluation is not here: how an episode is rolled out is tested with the evaluation.
"""

from __future__ import annotations

import collections
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rdtops.contract.config import preset
from rdtops.errors import WeightsError
from rdtops.trainer.data import frames, libero
from rdtops.trainer.data.actions import (
    ANGULAR_VELOCITY,
    GRIPPER_OPEN,
    POSITION,
    ROTATION_6D,
    VELOCITY,
    DeltaVelocity,
)
from rdtops.trainer.data.samples import Samples, Share, collate
from rdtops.trainer.data.slot_statistics import compute
from rdtops.trainer.loop import checkpoint
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import ALONE, PARITY, RECORDING, SHORT, events, losses, start

CODEC = DeltaVelocity()
PLAIN = replace(preset("tiny"), condition_dropout=0.0, image_augmentation=False, state_noise_snr_db=None)
NEVER_SAMPLED = (*SHORT, "warmup_steps=0", "checkpoint_every_steps=1000")


@pytest.fixture(scope="module")
def recording() -> libero.Dataset:
    return libero.index(RECORDING)


@pytest.fixture
def policy() -> RDTPolicy:
    return RDTPolicy.from_pretrained(PARITY / "hub_bin")


def samples_of(dataset: libero.Dataset) -> Samples:
    return Samples(dataset, CODEC, compute(dataset, CODEC), ["", *dataset.instructions], 16, 1000, PLAIN)


def only_demo(recording: libero.Dataset) -> h5py.Group:
    return h5py.File(RECORDING / recording.episodes[0].file)["data/demo_0"]


# 1. pure bf16 -------------------------------------------------------------------------------------------------------

def test_1_a_small_update_is_not_lost_in_bf16(prepare, train_here, assets) -> None:
    """Norm gains are 1 at first. In bf16 their next number is 0.004 away, and steps of 1e-6 would leave them there."""
    spec = prepare("small", *NEVER_SAMPLED, "max_steps=3", "mixed_precision=bf16", "learning_rate=1e-6",
                   "weight_decay=0")
    assert train_here(spec) == 0
    gains = load_file(Path(spec.paths.checkpoints) / "step_000003" / "model.safetensors")
    moved = gains["model.blocks.0.norm3.weight"] - 1
    assert (moved != 0).float().mean() > 0.5
    assert moved.abs().max() < 4e-6


def test_1_the_second_moment_decays(prepare, train_here) -> None:
    """By 0.999 a step: a factor that bf16 rounds to 1."""
    spec = prepare("decaying", *NEVER_SAMPLED, "max_steps=1", "mixed_precision=bf16")
    train_here(spec)
    moments = load_file(Path(spec.paths.checkpoints) / "step_000001" / "optimizer.safetensors")
    second = next(tensor for name, tensor in moments.items() if name.startswith("exp_avg_sq.") and tensor.any())
    assert second.dtype == torch.float32
    assert ((second * 0.999)[second > 1e-30] < second[second > 1e-30]).all()


# 2. the average -----------------------------------------------------------------------------------------------------

def test_2_the_average_still_moves_after_4096_steps(policy) -> None:
    """It is held to the same recursion in float64, past the step at which bf16 stood still."""
    ema = Ema(policy)
    bias, wanted = ema.policy.img_adaptor[0].bias, policy.img_adaptor[0].bias.detach().double().clone()
    for step in range(6000):
        decay = ema.decay
        with torch.no_grad():
            policy.img_adaptor[0].bias += 1e-4
            wanted.lerp_(policy.img_adaptor[0].bias.double(), 1 - decay)
            bias.lerp_(policy.img_adaptor[0].bias, 1 - decay)  # what Ema.step does to every parameter
        ema.updates = step + 1
    torch.testing.assert_close(bias.double(), wanted, atol=1e-4, rtol=0)


def test_2_the_average_steps_with_the_optimiser_and_goes_on_after_a_resume(prepare, train_here) -> None:
    spec = prepare("average", *NEVER_SAMPLED, "max_steps=2", "batch_size_per_process=1",
                   "gradient_accumulation_steps=4")
    train_here(spec)
    checkpoints = Path(spec.paths.checkpoints)
    before = load_file(checkpoints / "step_000002" / "ema" / "model.safetensors")
    config = json.loads(Path(spec.paths.config).read_text())
    config["train"]["max_steps"] = 3
    Path(spec.paths.config).write_text(json.dumps(config))
    train_here(spec)
    assert [checkpoint.read_trainer(checkpoints / f"step_{n:06d}")["ema_updates"] for n in (2, 3)] == [2, 3]
    live = load_file(checkpoints / "step_000003" / "model.safetensors")
    after = load_file(checkpoints / "step_000003" / "ema" / "model.safetensors")
    decay = 1 - 2**-0.75  # of the third step; a counter that started over would give 0, and the live weights
    for name, average in after.items():
        torch.testing.assert_close(average, before[name].lerp(live[name], 1 - decay), atol=1e-6, rtol=1e-5)


# 3. lost samples ----------------------------------------------------------------------------------------------------

def test_3_no_start_step_is_lost_and_no_short_demonstration(demonstrations) -> None:
    """Chunks of 16 actions; demonstrations of 5 and of 30 steps."""
    demonstrations.write("short.hdf5", episodes=2, steps=5)
    demonstrations.write("long.hdf5", episodes=1, steps=30)
    samples = samples_of(libero.index(demonstrations.folder))
    seen = collections.Counter()
    for number in range(len(samples.dataset)):
        episode, step = samples.dataset.locate(number)
        seen[episode.file, episode.name, step] += 1
        assert samples.clean(number, 0).target.step_mask_H.sum() == min(16, episode.starts - step)
    assert set(seen.values()) == {1}
    assert len(seen) == 2 * 4 + 29


# 4. which action follows --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("observed", "follows"), [("after", 4), ("before", 3)])
def test_4_an_observation_is_paired_with_the_action_that_followed_it(demonstrations, observed, follows) -> None:
    path = demonstrations.write(episodes=1, steps=8, observed=observed)
    dataset = libero.index(demonstrations.folder)
    with h5py.File(path) as file:
        wanted = file["data/demo_0/actions"][follows]
    first = samples_of(dataset).clean(3, 0).target.actions_HA[:1]
    np.testing.assert_allclose(CODEC.decode_actions(first)[0], wanted, atol=1e-6)


# 5. rotations and gripper -------------------------------------------------------------------------------------------

def test_5_ee_ori_is_an_axis_angle(recording) -> None:
    """The recording holds the same rotation as a quaternion (x, y, z, w) too; Euler angles would give another."""
    quaternions = only_demo(recording)["robot_states"][:, 5:9]
    x, y, z, w = quaternions.T
    first = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], axis=1)
    second = np.stack([2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)], axis=1)
    episode = recording.episodes[0]
    state = CODEC.encode_state(episode.joint_rad_T7, episode.finger_m_T2, episode.position_m_T3,
                               episode.axis_angle_rad_T3)
    np.testing.assert_allclose(state[:, ROTATION_6D], np.concatenate([first, second], axis=1), atol=1e-5)


def test_5_the_gripper_s_state_is_its_width_and_changes(recording) -> None:
    """One finger is half of it, and the mean of both is always 0."""
    fingers = only_demo(recording)["obs/gripper_states"][:]
    episode = recording.episodes[0]
    state = CODEC.encode_state(episode.joint_rad_T7, episode.finger_m_T2, episode.position_m_T3,
                               episode.axis_angle_rad_T3)
    np.testing.assert_allclose(state[:, GRIPPER_OPEN][:, 0], (fingers[:, 0] - fingers[:, 1]) / 0.08, atol=1e-6)
    assert state[:, GRIPPER_OPEN].std() > 0.01


def test_5_the_gripper_s_sign_is_that_of_the_simulator(recording) -> None:
    """-1 opens. In the recording the fingers come together after +1 and part after -1."""
    demo = only_demo(recording)
    commands, width = demo["actions"][:, 6], np.diff(demo["obs/gripper_states"][:] @ [1, -1])
    moving = np.abs(width) > 1e-3
    assert moving.any()
    assert (np.sign(width[moving]) == -np.sign(commands[1:][moving])).mean() > 0.8
    assert CODEC.encode_actions(np.array([[0, 0, 0, 0, 0, 0, -1]]))[0, GRIPPER_OPEN] == 1


# 6. the instruction (the rest of it is evaluation) ------------------------------------------------------------------

def test_6_the_instruction_is_the_sentence_and_not_the_file_s_name(recording) -> None:
    assert recording.instructions == ("close the top drawer of the cabinet",)


def test_6_history_is_the_frame_before_and_not_the_current_one_twice(demonstrations) -> None:
    demonstrations.write(episodes=1, steps=6)
    frames = samples_of(libero.index(demonstrations.folder)).clean(3, 0).observation.frames_VCSS3
    assert frames[:, 0, -1, 0, 0].tolist() == [2, 3]


# 7. slots and units -------------------------------------------------------------------------------------------------

def test_7_deltas_are_velocities_and_no_poses() -> None:
    slots = CODEC.encode_actions(np.ones((1, 7)))[0]
    assert not slots[POSITION].any()
    assert not slots[ROTATION_6D].any()
    assert slots[VELOCITY].tolist() == [0.05 * 20] * 3  # 0.05 m a step, 20 steps a second
    assert slots[ANGULAR_VELOCITY].tolist() == [0.5 * 20] * 3


def test_7_positions_are_metres(recording) -> None:
    found = compute(recording, CODEC)
    assert 0.8 < found["state"]["mean"][POSITION][2] < 1.6  # the hand above a kitchen table
    np.testing.assert_allclose(found["state"]["mean"][POSITION], np.concatenate(
        [e.position_m_T3 for e in recording.episodes]).mean(0), atol=1e-6)


# 8. what was said and not done --------------------------------------------------------------------------------------

def test_8_gradient_checkpointing_runs_every_block_again(policy) -> None:
    calls = collections.Counter()
    policy.model.blocks[0].register_forward_pre_hook(lambda *_: calls.update(["forward"]))
    recorded = load_file(PARITY / "fixtures.safetensors")
    given = {name: recorded[f"in.{name}"] for name in ("lang_tokens", "lang_attn_mask", "img_tokens", "state_tokens",
                                                       "action_gt", "action_mask", "ctrl_freqs", "noise", "timesteps")}
    for wanted in (1, 2):
        policy.model.gradient_checkpointing = wanted == 2
        calls.clear()
        policy.train().loss(**given).backward()
        assert calls["forward"] == wanted


def test_8_the_limit_of_checkpoints_is_kept(prepare, train_here) -> None:
    spec = prepare("limit", *SHORT, "max_steps=4", "checkpoint_every_steps=1", "checkpoints_total_limit=2")
    train_here(spec)
    assert sorted(p.name for p in Path(spec.paths.checkpoints).iterdir()) == ["step_000003", "step_000004"]


def test_8_a_half_written_checkpoint_is_not_the_latest(tmp_path) -> None:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"w")

    checkpoint.save(tmp_path, 1, fill)
    for half in ("step_000002", "step_000003.tmp", "checkpoint-4"):
        (tmp_path / half).mkdir()
        fill(tmp_path / half)
    assert [c.step for c in checkpoint.valid(tmp_path)] == [1]
    assert checkpoint.newest_intact(tmp_path, pytest.fail).step == 1


def test_8_a_load_that_fails_does_not_go_on_with_weights_only(prepare, train_here) -> None:
    spec = prepare("moments", *NEVER_SAMPLED, "max_steps=1")
    train_here(spec)
    folder = Path(spec.paths.checkpoints) / "step_000001"
    (folder / checkpoint.OPTIMIZER).write_bytes(b"")
    policy = RDTPolicy.from_pretrained(folder)
    with pytest.raises(WeightsError, match=r"optimizer\.safetensors"):
        checkpoint.restore_optimizer(folder, policy, torch.optim.AdamW(policy.parameters()), ALONE)


def test_8_no_two_processes_learn_from_the_same_samples(recording) -> None:
    config = replace(PLAIN, num_processes=8, batch_size_per_process=4)
    samples = Samples(recording, CODEC, compute(recording, CODEC), ["", *recording.instructions], 16, 1000,
                      config)
    numbers = [n for rank in range(8) for n in Share(config, rank, 1).numbers(0)]
    assert len({samples.order.at(1, n) for n in numbers}) == 32
    noise = [samples[1, n].target.noise_RHA.tobytes() for n in numbers]
    assert len(set(noise)) == 32


def test_8_a_language_mask_hides_in_bf16_too(policy) -> None:
    """Cast to bf16 and added, True and False would be 1 and 0, and hide nothing."""
    recorded = load_file(PARITY / "fixtures.safetensors")
    given = {name: recorded[f"in.{name}"] for name in ("lang_attn_mask", "img_tokens", "state_tokens", "action_mask",
                                                       "ctrl_freqs")}
    tokens, mask = recorded["in.lang_tokens"], recorded["in.lang_attn_mask"]
    assert not mask.all()
    other = torch.where(mask[..., None], tokens, tokens + 100)
    with torch.autocast("cpu", torch.bfloat16):
        one, two = (policy.predict_action(lang_tokens=t, noise=recorded["in.sample_noise"], **given)
                    for t in (tokens, other))
    assert torch.equal(one, two)


# 9. the loader ------------------------------------------------------------------------------------------------------

def test_9_a_file_is_opened_once_and_not_for_every_sample(recording, monkeypatch) -> None:
    opened = collections.Counter()
    real = frames.opened
    monkeypatch.setattr(frames, "opened", lambda path, name: opened.update([name]) or real(path, name))
    samples = samples_of(recording)
    for number in range(16):
        samples.clean(number, 0)
    assert sum(opened.values()) == 1


def test_9_a_sample_crosses_to_the_training_as_bytes_of_pixels(recording) -> None:
    """0.2 MB: two frames of two cameras as uint8. It was 10.6 MB of float32 in SigLIP's size."""
    batch = collate([samples_of(recording).clean(0, 0)])
    assert batch.observation.frames_BVCSS3.dtype == torch.uint8
    assert sum(t.numel() * t.element_size() for part in (batch.observation, batch.target)
               for t in vars(part).values()) < 250_000


# 10. a crash without a trace ----------------------------------------------------------------------------------------

def test_10_a_crash_leaves_its_stack_in_the_log_and_its_steps_in_the_journal(prepare) -> None:
    spec = prepare("crash", *SHORT, "max_steps=5000", "checkpoint_every_steps=5000")
    with start(spec) as training:
        while len(losses(spec)) < 3 and training.poll() is None:
            os.sched_yield()
        training.send_signal(signal.SIGSEGV)
        _, complaint = training.communicate(timeout=60)
    assert training.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in complaint
    assert "train.py" in complaint
    assert len(events(spec, "step")) >= 3
