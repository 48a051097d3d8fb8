"""Numbers: the card's beside the CPU's, and whether they repeat."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from proofs.gpu_bench.card import Card, CardRow
from rdtops.trainer.model.encoders import resized
from rdtops.trainer.model.norm import NORMS, Norm
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy

BATCH, WORDS = 4, 20
REPEATS = 8
# relative distance of all gradients together: float32 adds in another order, the others round to 8 and 11 bits
FURTHEST = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
IMAGE_TOKENS = ARCHITECTURES["rdt-1b"]["img_cond_len"]


def same_as_cpu(card: Card) -> None:
    """Compare gradients, predictions, pixels and norms with those of the CPU."""
    here = learning_policy(ARCHITECTURES["tiny"])
    there = copy.deepcopy(here).to(card.device)
    given = random_inputs(here)
    moved = {name: tensor.to(card.device) for name, tensor in given.items()}
    torch.autograd.backward(here.loss(**given))
    wanted = _gradients(here)
    for name, furthest in FURTHEST.items():
        there.zero_grad()
        with torch.autocast(card.device.type, getattr(torch, name), enabled=name != "float32"):
            loss = there.loss(**moved)
        torch.autograd.backward(loss)
        _distance(card, f"gradients of a tiny model, {name}", _gradients(there), wanted, furthest)
    ends = ("action_gt", "timesteps")
    with torch.no_grad():
        predicted = there.predict_action(**{name: t for name, t in moved.items() if name not in ends})
        expected = here.predict_action(**{name: t for name, t in given.items() if name not in ends})
    _distance(card, "predicted actions, float32", predicted.cpu(), expected, 1e-5)
    _pixels(card)
    for kind in NORMS:
        _norm(card, kind)


def repeats(card: Card) -> None:
    """Compute the same thing again and again: attention over all image tokens, and a whole step's gradients."""
    _attention(card)
    card.clear()
    policy = learning_policy(ARCHITECTURES[card.model]).to(card.device)
    given = {name: tensor.to(card.device) for name, tensor in random_inputs(policy).items()}

    def step() -> list[torch.Tensor]:
        policy.zero_grad()
        with torch.autocast(card.device.type, torch.bfloat16):
            torch.autograd.backward(policy.loss(**given))
        return [p.grad for p in policy.parameters() if p.grad is not None]

    _equal(card, f"gradients of {card.model}, batch {BATCH}", step, repeats=2)


def _attention(card: Card) -> None:
    queries, keys, values = (torch.randn(BATCH, 32, n, 64, device=card.device, dtype=torch.bfloat16,
                                         requires_grad=True) for n in (67, IMAGE_TOKENS, IMAGE_TOKENS))

    def attention() -> list[torch.Tensor]:
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        return list(torch.autograd.grad(mixed.float().square().sum(), (queries, keys, values)))

    _equal(card, f"attention's gradients, 67 x {IMAGE_TOKENS:,} tokens", attention)
    if card.is_gpu:  # what is gained by the strict mode: it may be equal by luck
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            _equal(card, "the same with warn_only, which the trainer does not use", attention, promised=False)
        finally:
            torch.use_deterministic_algorithms(True)


def _equal(card: Card, name: str, compute: Callable[[], list[torch.Tensor]], *, repeats: int = REPEATS,
           promised: bool = True) -> None:
    first = [tensor.clone() for tensor in compute()]
    same = [all(torch.equal(one, other) for one, other in zip(first, compute(), strict=True)) for _ in range(repeats)]
    card.tell(CardRow("bits", name, f"{sum(same)} of {repeats} repeats equal", "", f"{repeats} of {repeats}"
                      if promised else None, all(same) if promised else None, f"{len(first)} tensors"))


def _distance(card: Card, name: str, got: torch.Tensor, wanted: torch.Tensor, furthest: float) -> None:
    apart = float((got.double() - wanted.double()).norm() / wanted.double().norm())
    card.tell(CardRow("numbers", name, f"{apart:.1e}", "relative distance", f"{furthest:g}", apart <= furthest,
                      f"the CPU's ({platform.machine()})"))


def _pixels(card: Card) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    edge = 384
    pil = np.stack([np.asarray(Image.fromarray(frame).resize((edge, edge), Image.Resampling.BICUBIC))
                    for frame in frames])
    ours = resized(torch.from_numpy(frames).to(card.device), edge).permute(0, 2, 3, 1).cpu().numpy()
    apart = np.abs(ours.astype(int) - pil.astype(int))
    card.tell(CardRow("numbers", "pixels that differ from PIL's", f"{(apart > 0).mean():.1e}", f"by {apart.max()}",
                      "1e-3, by 1", bool((apart > 0).mean() <= 1e-3 and apart.max() <= 1)))


def _norm(card: Card, kind: str) -> None:
    """Compare a norm and its gradients, computed in bf16 on the card, with float64 on the CPU."""
    torch.manual_seed(0)
    x = torch.randn(64, 67, 2048, dtype=torch.bfloat16)
    norm = Norm(2048, kind)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    given = x.to(card.device).requires_grad_()
    there = copy.deepcopy(norm).to(card.device)
    torch.autograd.backward(there(given).float().square().sum())
    exact = x.detach().double().requires_grad_()
    weight = norm.weight.detach().double().requires_grad_()
    power = exact.var(-1, keepdim=True) if kind == "timm_1_0_3" else exact.square().mean(-1, keepdim=True)
    torch.autograd.backward((exact * torch.rsqrt(power + 1e-6) * weight).square().sum())
    for name, got, wanted in (("input", given, exact), ("weight", there.weight, weight)):
        assert got.grad is not None
        assert wanted.grad is not None
        _distance(card, f"norm {kind}: gradient of the {name}, bf16", got.grad.cpu(), wanted.grad, 1e-2)


def learning_policy(architecture: dict[str, Any]) -> RDTPolicy:
    """Return a model all of whose parameters have gradients: a new one predicts zero."""
    torch.manual_seed(0)
    policy = RDTPolicy(architecture)
    torch.nn.init.normal_(policy.model.final_layer.ffn_final.fc2.weight, std=0.02)
    return policy


def random_inputs(policy: RDTPolicy) -> dict[str, torch.Tensor]:
    """Return the arguments of `loss` for a batch in which each sample has another length of instruction."""
    config, draw = policy.config, torch.Generator().manual_seed(1)
    patches, slots, horizon = config["img_cond_len"] // 6, config["action_dim"], config["pred_horizon"]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return {"lang_tokens": random(BATCH, WORDS, config["lang_token_dim"]),
            "lang_attn_mask": torch.arange(WORDS)[None] < torch.tensor([[WORDS], [7], [3], [12]]),
            "img_tokens": random(BATCH, 2, 2, patches, config["img_token_dim"]),
            "background_tokens": random(patches, config["img_token_dim"]),
            "state_tokens": random(BATCH, 1, slots), "action_mask": torch.ones(BATCH, 1, slots),
            "ctrl_freqs": torch.full((BATCH,), 20), "action_gt": random(BATCH, horizon, slots),
            "noise": random(BATCH, horizon, slots), "timesteps": torch.tensor([1, 200, 500, 900])}


def _gradients(policy: RDTPolicy) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double().cpu() for p in policy.parameters() if p.grad is not None])
