"""The update: clipped as torch does, the same bits with each of its ways to divide, and one wait for the device."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rdtops.contract.config import override, preset
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.loop.update import WeightUpdate
from rdtops.trainer.model.rdt import RDTPolicy
from rdtops.trainer.train import Training
from tests.trainer.conftest import ALONE, PARITY, SHORT, events

WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)  # of operators that a GPU's host waits for


@pytest.fixture(scope="module")
def policy() -> RDTPolicy:
    return RDTPolicy.from_pretrained(PARITY / "hub_bin")


def updated(policy: RDTPolicy, max_grad_norm: float, *, itself: bool = True, precision: str = "no") -> WeightUpdate:
    """A copy of the policy after two updates. `itself`: fused AdamW divides, or a pass of our own."""
    config = override(preset("tiny"), [f"max_grad_norm={max_grad_norm}", f"mixed_precision={precision}"])
    copied = copy.deepcopy(policy)
    update = WeightUpdate(config, copied, Ema(copied), ALONE, torch.device("cpu"))
    update.shards = copy.copy(ALONE)
    update.shards.scales_in_update = itself  # type: ignore[misc]
    scale = float(update.scaler.scale(torch.ones(1)))
    for step in (1, 2):
        given(copied, step, scale)
        update.norm = float(update.step(1e-3))  # type: ignore[attr-defined]
    return update


def given(policy: RDTPolicy, seed: int, scale: float = 1.0) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random) * scale


def same(one: WeightUpdate, other: WeightUpdate) -> bool:
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return all(torch.equal(a, b) and torch.equal(one.optimizer.state[a]["exp_avg_sq"],
                                                 other.optimizer.state[b]["exp_avg_sq"]) for a, b in pairs)


def test_both_ways_to_clip_give_the_same_bits(policy) -> None:
    one, other, unclipped = updated(policy, 0.5), updated(policy, 0.5, itself=False), updated(policy, 1e9)
    assert same(one, other)
    assert not same(one, unclipped)
    assert one.norm == unclipped.norm


def test_fp16_clips_what_its_scaler_gives(policy) -> None:
    """Its scaler divides by a power of two, which changes no bit."""
    scaled = updated(policy, 0.5, precision="fp16")
    assert scaled.scaler.is_enabled()
    assert same(scaled, updated(policy, 0.5))


def test_a_gradient_is_clipped_as_torch_does(policy) -> None:
    theirs = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=preset("tiny").weight_decay)
    for step in (1, 2):
        given(theirs, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
    ours = updated(policy, 0.5)
    assert ours.norm == pytest.approx(float(norm), rel=1e-6)
    for parameter, name in zip(ours.policy.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.optimizer.state[parameter]["exp_avg"], optimizer.state[name]["exp_avg"],
                                   rtol=1e-5, atol=1e-9)


def test_a_step_that_is_not_clipped_has_the_bits_of_one_without_clipping(policy) -> None:
    theirs = copy.deepcopy(policy)
    config = preset("tiny")
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=config.weight_decay, fused=True,
                                  betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon)
    for step in (1, 2):
        given(theirs, step)
        optimizer.step()
    for parameter, other in zip(updated(policy, 1e9).policy.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, other)


class Reads(TorchDispatchMode):
    """Counts what a host would wait for, were the tensors on a GPU. Copies to the host are no operators on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.counts = False

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        by_number = operator is torch.ops.aten.index.Tensor and not any(
            index.dtype in (torch.bool, torch.uint8) for index in args[1] if index is not None)
        if any(tag in operator.tags for tag in WAITS) and not by_number:
            self.note(str(operator))
        return operator(*args, **(kwargs or {}))

    def note(self, name: str) -> None:
        if self.counts:
            self.counted[name] += 1


@pytest.fixture
def reads(monkeypatch) -> Reads:
    """The reads of every step, without those of the loader, which has processes of its own."""
    counting, step = Reads(), Training._step
    for method in (torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy):
        def noted(tensor, *given, _method=method):
            counting.note(_method.__name__)
            return _method(tensor, *given)

        monkeypatch.setattr(torch.Tensor, method.__name__, noted)

    def loaded(data):
        for _ in iter(int, 1):
            counting.counts = False
            batch = next(data)
            counting.counts = True
            yield batch

    def counted(training, number, data):
        with counting:
            told = step(training, number, loaded(data))
        counting.counts = False
        return told

    monkeypatch.setattr(Training, "_step", counted)
    return counting


def test_the_host_waits_once_a_step(prepare, train_here, reads) -> None:
    spec = prepare("waiting", *SHORT, "max_steps=3", "checkpoint_every_steps=3", "gradient_accumulation_steps=2",
                   "batch_size_per_process=2", "max_grad_norm=0.06", "loader_workers=0", "log_every_steps=1")
    assert train_here(spec) == 0
    assert len(events(spec, "step")) == 3
    assert reads.counted == {"tolist": 3}


def test_a_read_that_is_added_is_counted(prepare, train_here, reads, monkeypatch) -> None:
    step = WeightUpdate.step
    monkeypatch.setattr(WeightUpdate, "step", lambda update, rate: torch.tensor(step(update, rate).item()))
    assert train_here(prepare("reading", *SHORT, "max_steps=2", "checkpoint_every_steps=2", "loader_workers=0")) == 0
    assert reads.counted["aten._local_scalar_dense.default"] == 2
