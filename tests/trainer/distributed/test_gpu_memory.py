"""What `gradient_checkpointing = auto` becomes, by the memory of the GPUs."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from rdtops.contract.config import preset
from rdtops.trainer.distributed import gpu_memory
from rdtops.trainer.distributed.ranks import Ranks


@pytest.mark.parametrize(("asked", "decided"), [("auto", False), (True, True), (False, False)])
def test_a_cpu_has_no_plan_and_recomputes_only_when_asked(asked, decided) -> None:
    config = replace(preset("tiny"), gradient_checkpointing=asked)
    assert gpu_memory.gradient_checkpointing(config, Ranks(0, 1, torch.device("cpu"))) is decided


@pytest.mark.parametrize(("least_gib", "decided"), [(79, False), (40, True)])
def test_the_gpu_with_least_free_memory_decides_for_all(monkeypatch, caplog, least_gib, decided) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (79 << 30, 80 << 30))
    monkeypatch.setattr(torch, "tensor", lambda values, **_: torch.as_tensor(values))
    monkeypatch.setattr(Ranks, "gather", lambda _, free: torch.stack([free, torch.as_tensor([least_gib << 30])]))
    with caplog.at_level(logging.INFO):
        found = gpu_memory.gradient_checkpointing(preset("rdt_1b"), Ranks(0, 8, torch.device("cuda", 0)))
    assert found is decided
    assert f"{least_gib}.0 GiB free, gradient_checkpointing = {str(decided).lower()} (auto)" in caplog.text
