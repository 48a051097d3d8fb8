"""A save behind the training's back: what it writes, what waits for it, and what its failures cost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from proofs.trainer_bench import saving_pause
from rdtops.contract.journal import Journal
from rdtops.contract.run import Retention
from rdtops.trainer.loop import checkpoint
from rdtops.trainer.loop.checkpoint import Contents
from rdtops.trainer.loop.progress import Telling
from rdtops.trainer.loop.saving import Saver
from tests.trainer.conftest import files_no_larger_than


@dataclass(frozen=True)
class Held(Contents):
    """Contents whose writing begins when `gate` opens."""

    gate: threading.Event = None

    def write(self, folder: Path) -> None:
        assert self.gate.wait(20)
        super().write(folder)


@pytest.fixture
def saver(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    with Saver(checkpoints, Retention(last=2), Telling(Journal(tmp_path / "journal.jsonl"))) as made:
        yield made


def events(saver: Saver) -> list[tuple[str, int]]:
    return [(e.kind, e.data["step"]) for e in saver.journal.journal.read()]


def contents(value: float) -> dict:
    return {"tensors": {"model.safetensors": {"w": torch.full((10_000,), value)}}, "tables": {"trainer.json": {}}}


def saved(saver: Saver, step: int) -> float:
    (weights,) = load_file(saver.checkpoints / f"step_{step:06d}" / "model.safetensors").values()
    return weights.unique().item()


def test_what_is_written_is_the_state_of_the_call_whatever_becomes_of_it(saver) -> None:
    gate = threading.Event()
    state = Held(**contents(1), gate=gate)
    saver.save(1, state)
    state.tensors["model.safetensors"]["w"].fill_(2)  # as the optimiser's next step does
    gate.set()
    saver.wait()
    assert saved(saver, 1) == 1
    saver.save(2, state)  # into the memory of the first copy
    saver.wait()
    assert (saved(saver, 1), saved(saver, 2)) == (1, 2)


def test_it_is_told_only_when_it_lies_there(saver) -> None:
    gate = threading.Event()
    saver.save(1, Held(**contents(1), gate=gate))
    assert events(saver) == []
    assert checkpoint.valid(saver.checkpoints) == []
    gate.set()
    saver.wait()
    assert events(saver) == [("checkpoint", 1)]
    assert [c.step for c in checkpoint.valid(saver.checkpoints)] == [1]


def test_the_next_save_waits_for_the_one_in_flight(saver) -> None:
    gate = threading.Event()
    saver.save(1, Held(**contents(1), gate=gate))
    threading.Timer(0.3, gate.set).start()
    began_s = time.perf_counter()
    saver.save(2, Contents(**contents(2)))
    assert time.perf_counter() - began_s > 0.25
    assert events(saver)[0] == ("checkpoint", 1)
    saver.wait()
    assert (saved(saver, 1), saved(saver, 2)) == (1, 2)


def test_leaving_waits_for_the_last_save(tmp_path) -> None:
    gate = threading.Event()
    with Saver(tmp_path, Retention(last=1), Telling(Journal(tmp_path / "journal.jsonl"))) as saver:
        saver.save(1, Held(**contents(1), gate=gate))
        threading.Timer(0.3, gate.set).start()
    assert saved(saver, 1) == 1


def test_a_save_that_fails_is_told_and_costs_nothing_else(saver) -> None:
    saver.save(1, Contents(**contents(1)))
    saver.wait()
    with files_no_larger_than(20_000):  # room for the journal, not for the weights
        saver.save(2, Contents(**contents(2)))
        saver.wait()
    saver.save(3, Contents(**contents(3)))
    saver.wait()
    assert events(saver) == [("checkpoint", 1), ("checkpoint_failed", 2), ("checkpoint", 3)]
    assert sorted(p.name for p in saver.checkpoints.iterdir()) == ["step_000001", "step_000003"]


def test_what_nobody_foresaw_ends_the_training(saver) -> None:
    saver.save(1, Contents(contents(1)["tensors"], {"trainer.json": {"a set": {1}}}))
    with pytest.raises(TypeError, match="not JSON serializable"):
        saver.wait()


def test_pruning_is_told(saver) -> None:
    for step in (1, 2, 3):
        saver.save(step, Contents(**contents(step)))
    saver.wait()
    assert events(saver) == [("checkpoint", 1), ("checkpoint", 2), ("checkpoint", 3), ("checkpoint_deleted", 1)]
    assert [c.step for c in checkpoint.valid(saver.checkpoints)] == [2, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_copy_from_the_gpu_is_in_pinned_memory_and_before_the_next_update(saver) -> None:
    state = {"model.safetensors": {"w": torch.zeros(64 << 20, device="cuda")}}
    for step in range(1, 4):
        state["model.safetensors"]["w"].fill_(step)
        saver.save(step, Contents(state, {"trainer.json": {}}))
        state["model.safetensors"]["w"].fill_(-1)
    saver.wait()
    assert [saved(saver, step) for step in (2, 3)] == [2, 3]
    assert all(memory.is_pinned() for memory in saver._copy._memory.values())


def test_the_pause_of_a_checkpoint_is_measured_and_short(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(saving_pause, "DEPTH", 2)
    pause_s, save_s = saving_pause.checkpoint_pause(tmp_path, rounds=1)
    assert 0 < pause_s < 0.5 * save_s  # `inv bench trainer` holds it to less, on a quiet machine
    assert list(tmp_path.iterdir()) == []
