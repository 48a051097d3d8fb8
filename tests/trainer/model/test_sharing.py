"""Work that is done once for all: the numbers stay those of doing it again and again."""

from __future__ import annotations

import copy

import pytest
import torch

from proofs.trainer_bench import published, speed
from rdtops.trainer.model.norm import Norm
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy

B, V, C, P, H = 3, 2, 2, 16, 16


@pytest.fixture
def policy() -> RDTPolicy:
    torch.manual_seed(0)
    policy = RDTPolicy(ARCHITECTURES["tiny"])
    torch.nn.init.normal_(policy.model.final_layer.ffn_final.fc2.weight, std=0.1)
    return policy


def given(samples: int = B) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "lang_tokens": torch.randn(samples, 7, 32, generator=random),
        "lang_attn_mask": torch.arange(7)[None] < torch.tensor([[7], [5], [3]])[:samples],
        "img_tokens": torch.randn(samples, V, C, P, 32, generator=random),
        "background_tokens": torch.randn(P, 32, generator=random),
        "state_tokens": torch.randn(samples, 1, 128, generator=random),
        "action_mask": torch.ones(samples, 1, 128), "ctrl_freqs": torch.full((samples,), 20)}


def targets(*draws: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    return {"action_gt": torch.randn(B, H, 128, generator=random),
            "noise": torch.randn(B, *draws, H, 128, generator=random),
            "timesteps": torch.randint(1000, (B, *draws), generator=random)}


def gradients(policy: RDTPolicy, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}


def assert_near(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()), msg=name)


def test_a_shared_background_gives_the_gradients_of_a_repeated_one(policy) -> None:
    shared = policy.loss(**given(), **targets())
    repeated = policy.loss(**speed.without_sharing(given()), **targets())
    torch.testing.assert_close(shared, repeated, rtol=1e-6, atol=0)
    assert_near(gradients(policy, shared), gradients(policy, repeated))


def test_the_background_stands_in_its_own_places(policy) -> None:
    """Position embeddings tell the cameras apart; here all of them differ."""
    with torch.no_grad():
        policy.model.img_cond_pos_embed.normal_()
    shared = policy.predict_action(**given(), noise=targets()["noise"])
    repeated = policy.predict_action(**speed.without_sharing(given()), noise=targets()["noise"])
    torch.testing.assert_close(shared, repeated, rtol=0, atol=5e-6)
    elsewhere = {**given(), "background_tokens": given()["background_tokens"].flip(0)}
    assert (policy.predict_action(**elsewhere, noise=targets()["noise"]) - shared).abs().max() > 1e-4


def test_reused_keys_and_values_predict_the_same_bits(policy) -> None:
    calls = []
    for block in policy.model.blocks:
        block.cross_attn.kv.register_forward_pre_hook(lambda *_: calls.append(1))
    reused = policy.predict_action(**given(), noise=targets()["noise"])
    assert len(calls) == 2 + 2 * 2  # language once, images once and their background once
    anew = copy.deepcopy(policy)
    anew.model.keys_values = lambda conditions: conditions
    assert torch.equal(reused, anew.predict_action(**given(), noise=targets()["noise"]))
    assert len(calls) == 6 * (1 + 5)


def test_draws_that_share_a_sample_learn_what_repeated_samples_learn(policy) -> None:
    together = policy.loss(**given(), **targets(4))
    repeated = {key: tensor if key == "background_tokens" else tensor.repeat_interleave(4, 0)
                for key, tensor in given().items()}
    flat = {"action_gt": targets(4)["action_gt"].repeat_interleave(4, 0),
            "noise": targets(4)["noise"].flatten(0, 1), "timesteps": targets(4)["timesteps"].flatten()}
    apart = policy.loss(**repeated, **flat)
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=0)
    assert_near(gradients(policy, together), gradients(policy, apart))


def test_the_loss_of_draws_is_their_mean_whatever_counts(policy) -> None:
    kept = torch.ones(B, H, dtype=torch.bool)
    kept[1, 5:] = False
    masks = {"step_mask": kept, "state_mask": torch.zeros(B, 1, 128)}
    together = policy.loss(**given(), **targets(2), **masks)
    single = [policy.loss(**given(), **{**targets(2), "noise": targets(2)["noise"][:, r],
                                        "timesteps": targets(2)["timesteps"][:, r]}, **masks) for r in (0, 1)]
    torch.testing.assert_close(together, sum(single) / 2, rtol=1e-6, atol=0)
    counted = policy.loss(**given(), **targets(2), **masks, valid_steps=2 * kept.sum())
    torch.testing.assert_close(counted, together / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["timm_1_0_3", "rms"])
def test_under_autocast_a_norm_computes_in_float32(kind) -> None:
    torch.manual_seed(0)
    values = torch.randn(50, 256) * 3
    ours, theirs = Norm(256, kind), published.PlainNorm(256, kind)
    with torch.autocast("cpu", torch.bfloat16):
        one, other = ours(values), theirs(values)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["timm_1_0_3", "rms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_has_the_gradients_of_its_definition(kind, dtype) -> None:
    torch.manual_seed(0)
    ours, theirs = Norm(64, kind), published.PlainNorm(64, kind)
    torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    values = torch.randn(5, 3, 64) * torch.logspace(-3, 2, 5)[:, None, None] + 0.3
    pull = torch.randn(5, 3, 64).to(dtype)
    results = []
    for norm in (ours, theirs):
        x = values.to(dtype).requires_grad_()
        y = norm(x)
        y.backward(pull)
        results.append((y, x.grad, norm.weight.grad))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **tolerance)


def test_gradient_checkpointing_with_a_shared_background_changes_no_bit(policy) -> None:
    plain = gradients(policy, policy.loss(**given(), **targets(2)))
    policy.model.gradient_checkpointing = True
    recomputed = gradients(policy, policy.loss(**given(), **targets(2)))
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_what_is_kept_for_the_backward_pass_shrinks() -> None:
    plain, ours = (kept(share=share) for share in (False, True))
    recomputed = kept(share=True, checkpointing=True)
    assert ours < 0.85 * plain
    assert recomputed < 0.5 * ours


def kept(*, share: bool, checkpointing: bool = False) -> int:
    torch.manual_seed(0)
    policy = RDTPolicy(ARCHITECTURES["tiny"])
    policy.model.gradient_checkpointing = checkpointing
    if not share:
        published.plain(policy)
    inputs = {**(given() if share else speed.without_sharing(given())), **targets()}
    return speed.kept_bytes(policy, inputs)


def test_the_plain_norms_are_plain_only_where_asked(policy) -> None:
    published.plain(copy.deepcopy(policy))
    assert not any(isinstance(module, published.PlainNorm) for module in policy.modules())
