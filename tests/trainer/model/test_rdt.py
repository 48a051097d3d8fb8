"""The model against recordings of the official code (fixtures/rdt_parity/README.md says how they were made)."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.model import diffusion
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy
from tests.trainer.conftest import PARITY, SHAPES

CONDITIONS = ("lang_tokens", "lang_attn_mask", "img_tokens", "state_tokens", "action_mask", "ctrl_freqs")


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "fixtures.safetensors")


@pytest.fixture(scope="module")
def recorded_rms() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "fixtures_newlibs.safetensors")


@pytest.fixture
def policy() -> RDTPolicy:
    return RDTPolicy.from_pretrained(PARITY / "hub_bin")


@pytest.fixture
def rms_policy(policy) -> RDTPolicy:
    other = RDTPolicy({**policy.config, "norm": "rms"})
    other.load_state_dict(policy.state_dict())
    return other


def conditions(recorded) -> dict[str, torch.Tensor]:
    return {name: recorded[f"in.{name}"] for name in CONDITIONS}


def recorded_loss(policy, recorded, **changes) -> torch.Tensor:
    given = {"action_gt": recorded["in.action_gt"], "noise": recorded["in.noise"],
             "timesteps": recorded["in.timesteps"], **conditions(recorded), **changes}
    return policy.loss(**given)


def forward(policy, recorded, lang_mask) -> torch.Tensor:
    trajectory = policy.adapt_trajectory(
        recorded["in.state_tokens"], recorded["out.noisy_action"], recorded["in.action_mask"])
    return policy.model(trajectory, recorded["in.ctrl_freqs"], recorded["in.timesteps"],
                        policy.lang_adaptor(recorded["in.lang_tokens"]),
                        policy.img_adaptor(recorded["in.img_tokens"]), lang_mask)


def near(value: torch.Tensor, wanted: torch.Tensor, atol: float = 5e-6, rtol: float = 0.0) -> None:
    torch.testing.assert_close(value, wanted, atol=atol, rtol=rtol, check_dtype=False)


@pytest.mark.parametrize("name", ["rdt-1b", "rdt-170m"])
@pytest.mark.parametrize("source", ["published config", "ARCHITECTURES"])
def test_names_and_shapes_are_those_of_the_published_weights(name, source) -> None:
    published = json.loads((SHAPES / f"{name}.config.json").read_text())
    with torch.device("meta"):
        policy = RDTPolicy(published if source == "published config" else ARCHITECTURES[name])
    shapes = {key: list(tensor.shape) for key, tensor in policy.state_dict().items()}
    assert shapes == json.loads((SHAPES / f"{name}.shapes.json").read_text())


@pytest.mark.parametrize("name", ["rdt-1b", "rdt-170m"])
def test_architectures_say_what_the_published_configs_say(name) -> None:
    published = json.loads((SHAPES / f"{name}.config.json").read_text())
    assert {**published, "norm": "timm_1_0_3"} == ARCHITECTURES[name]


def test_adaptors_and_embedders_match(policy, recorded) -> None:
    near(policy.lang_adaptor(recorded["in.lang_tokens"]), recorded["out.adapt_lang"])
    near(policy.img_adaptor(recorded["in.img_tokens"]), recorded["out.adapt_img"])
    near(policy.adapt_trajectory(recorded["in.state_tokens"], recorded["out.noisy_action"],
                                 recorded["in.action_mask"]), recorded["out.adapt_state"])
    near(policy.model.t_embedder(recorded["in.timesteps"]), recorded["out.t_embed"])
    near(policy.model.freq_embedder(recorded["in.ctrl_freqs"]), recorded["out.freq_embed"])


def test_forward_matches_with_and_without_a_language_mask(policy, recorded) -> None:
    near(forward(policy, recorded, recorded["in.lang_attn_mask"]), recorded["out.model_forward"])
    near(forward(policy, recorded, None), recorded["out.model_forward_no_lang_mask"])


def test_noise_and_solver_schedules_match(policy, recorded) -> None:
    settings = policy.config["noise_scheduler"]
    noise, solver = diffusion.training_noise(settings), diffusion.solver(settings)
    near(noise.alphas_cumprod, recorded["sched.alphas_cumprod"])
    near(noise.add_noise(recorded["in.action_gt"], recorded["in.noise"], recorded["in.timesteps"]),
         recorded["out.noisy_action"])
    near(solver.sigmas, recorded["sched.dpm_sigmas"], atol=1e-5, rtol=1e-5)
    assert solver.timesteps.tolist() == recorded["out.sample_timesteps"].tolist()


def test_solver_steps_match(policy, recorded) -> None:
    solver = diffusion.solver(policy.config["noise_scheduler"])
    chunk = recorded["in.sample_noise"]
    for timestep, output, wanted in zip(solver.timesteps, recorded["out.sample_model_outputs"],
                                        recorded["out.sample_prev_samples"], strict=True):
        chunk = solver.step(output, timestep, chunk).prev_sample
        near(chunk, wanted)


def test_predict_action_matches(policy, recorded) -> None:
    near(policy.predict_action(**conditions(recorded), noise=recorded["in.sample_noise"]),
         recorded["out.predict_action"])


def test_loss_and_every_gradient_norm_match(policy, recorded) -> None:
    loss = recorded_loss(policy, recorded)
    near(loss, recorded["out.loss"], atol=0, rtol=1e-5)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
    assert len(gradients) == sum(key.startswith("gradnorm.") for key in recorded) == 114
    for name, gradient in gradients.items():
        near(gradient.norm(), recorded[f"gradnorm.{name}"], atol=1e-9, rtol=1e-4)
    for key in (k for k in recorded if k.startswith("grad.")):
        near(gradients[key.removeprefix("grad.")], recorded[key], atol=1e-7, rtol=1e-4)


def test_loss_of_the_noise_matches(policy, recorded) -> None:
    policy.prediction_type = "epsilon"
    near(recorded_loss(policy, recorded), recorded["out.loss_epsilon"], atol=0, rtol=1e-5)


def trained(policy, recorded) -> Ema:
    """Ten optimiser steps on the recorded draws, each checked on the way."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=1e-2)
    ema = Ema(policy)
    for step in range(10):
        loss = recorded_loss(policy, recorded, noise=recorded["train.noise"][step],
                             timesteps=recorded["train.timesteps"][step])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        assert ema.decay == pytest.approx(recorded["train.ema_decay"][step].item())
        near(loss, recorded["train.loss"][step], atol=0, rtol=1e-5)
        near(norm, recorded["train.grad_norm"][step], atol=0, rtol=1e-5)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(policy)
    return ema


def test_slot_weights_weigh_the_slots_and_ones_change_nothing(policy, recorded) -> None:
    plain = recorded_loss(policy, recorded)
    assert torch.equal(recorded_loss(policy, recorded, slot_weights=torch.ones(128)), plain)
    halves = [(torch.arange(128) < 50).float(), (torch.arange(128) >= 50).float()]
    parts = [recorded_loss(policy, recorded, slot_weights=half) for half in halves]
    near(sum(parts), plain, atol=0, rtol=1e-6)
    assert min(parts) > 0


def test_ten_training_steps_and_their_average_match(policy, recorded) -> None:
    ema = trained(policy, recorded)
    check_sums(policy, recorded["train.final_checksum"])
    check_sums(ema.policy, recorded["train.ema_checksum"])
    for name, average in ema.policy.named_parameters():
        near(average, recorded[f"ema.{name}"], atol=2e-4)
    near(recorded_loss(policy, recorded), recorded["train.loss_after"], atol=0, rtol=1e-5)


def check_sums(policy, wanted) -> None:
    with safe_open(PARITY / "fixtures.safetensors", "pt") as file:
        order = json.loads(file.metadata()["param_order"])
    parameters = dict(policy.named_parameters())
    for name, (total, absolute, squared) in zip(order, wanted, strict=True):
        values = parameters[name].detach().double()
        near(values.sum(), total, atol=2e-3)
        near(values.abs().sum(), absolute, atol=0, rtol=2e-6)
        near(values.square().sum(), squared, atol=0, rtol=5e-6)


def test_the_true_rms_norm_matches_newer_libraries(rms_policy, recorded, recorded_rms) -> None:
    near(forward(rms_policy, recorded, recorded["in.lang_attn_mask"]), recorded_rms["out.model_forward"])
    near(rms_policy.predict_action(**conditions(recorded), noise=recorded["in.sample_noise"]),
         recorded_rms["out.predict_action"])
    loss = recorded_loss(rms_policy, recorded)
    near(loss, recorded_rms["out.loss"], atol=0, rtol=1e-5)
    loss.backward()
    for name, parameter in rms_policy.named_parameters():
        near(parameter.grad.norm(), recorded_rms[f"gradnorm.{name}"], atol=1e-9, rtol=1e-4)


def test_the_two_norms_are_told_apart(policy, rms_policy, recorded) -> None:
    mask = recorded["in.lang_attn_mask"]
    assert (forward(policy, recorded, mask) - forward(rms_policy, recorded, mask)).abs().max() > 0.1


def test_a_new_model_starts_with_the_official_position_embeddings(policy, recorded) -> None:
    fresh = RDTPolicy(policy.config)
    plain = RDTPolicy({**policy.config, "lang_pos_embed_config": None, "img_pos_embed_config": None})
    for name in ("x_pos_embed", "lang_cond_pos_embed", "img_cond_pos_embed"):
        near(fresh.model.get_parameter(name), recorded[f"init.{name}"])
    for name in ("lang_cond_pos_embed", "img_cond_pos_embed"):
        near(plain.model.get_parameter(name), recorded[f"init_noconfig.{name}"])


def test_a_new_model_predicts_zero(policy, recorded) -> None:
    assert not forward(RDTPolicy(policy.config), recorded, None).any()


def test_what_a_language_mask_hides_changes_nothing(policy, recorded) -> None:
    """Also under bf16 autocast, where an additive mask once hid nothing."""
    mask = recorded["in.lang_attn_mask"]
    garbled = torch.where(mask[..., None], recorded["in.lang_tokens"], 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(recorded_loss(policy, recorded), recorded_loss(policy, recorded, lang_tokens=garbled))


def test_a_mask_of_numbers_is_refused(policy, recorded) -> None:
    with pytest.raises(AssertionError, match="float32"):
        recorded_loss(policy, recorded, lang_attn_mask=recorded["in.lang_attn_mask"].float())


def test_gradient_checkpointing_changes_no_gradient(policy, recorded) -> None:
    recorded_loss(policy, recorded).backward()
    plain = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    policy.model.gradient_checkpointing = True
    calls = []
    policy.model.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    recorded_loss(policy, recorded).backward()
    assert len(calls) == 2  # forward, and again on the way back
    for parameter, wanted in zip(policy.parameters(), plain, strict=True):
        assert torch.equal(parameter.grad, wanted)


def test_actions_after_the_end_of_an_episode_do_not_count(policy, recorded) -> None:
    kept = torch.ones(3, 8, dtype=torch.bool)
    near(recorded_loss(policy, recorded, step_mask=kept), recorded["out.loss"], atol=0, rtol=1e-5)
    kept[1, 5:] = False
    loss = recorded_loss(policy, recorded, step_mask=kept)
    error = forward(policy, recorded, recorded["in.lang_attn_mask"]) - recorded["in.action_gt"]
    near(loss, error[kept].square().mean(), atol=0, rtol=1e-5)
    near(recorded_loss(policy, recorded, step_mask=kept, valid_steps=2 * kept.sum()), loss / 2, atol=0, rtol=1e-6)


def test_state_and_actions_may_have_masks_of_their_own(policy, recorded) -> None:
    same = recorded_loss(policy, recorded, state_mask=recorded["in.action_mask"])
    near(same, recorded["out.loss"], atol=0, rtol=1e-5)
    assert recorded_loss(policy, recorded, state_mask=torch.zeros(3, 1, 128)) != same


def test_a_saved_policy_comes_back_with_its_norm(rms_policy, tmp_path) -> None:
    rms_policy.save_pretrained(tmp_path)
    back = RDTPolicy.from_pretrained(tmp_path)
    assert back.config == rms_policy.config
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in rms_policy.state_dict().items())
    assert all(parameter.requires_grad for parameter in back.parameters())
