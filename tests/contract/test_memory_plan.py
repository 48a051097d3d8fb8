"""The memory of a GPU, planned: the decision of `auto`, ways to fit, and the tables of docs/distributed.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.contract import memory_plan
from rdtops.contract.config import TrainConfig, preset
from rdtops.contract.memory_plan import MemoryPlan

DOCUMENT = Path(__file__).parents[2] / "docs" / "distributed.md"
GPU_24, GPU_80 = 24_000 << 20, 80_500 << 20  # free, of 24 and 80 GB
SHARDINGS = ("none", "zero1", "fsdp2")


def one_b(**changes: object) -> TrainConfig:
    return replace(preset("rdt_1b"), **changes)  # type: ignore[arg-type]


def test_auto_recomputes_only_where_memory_needs_it() -> None:
    assert memory_plan.decided(one_b(), GPU_80).gradient_checkpointing is False
    assert memory_plan.decided(one_b(), 40_000 << 20).gradient_checkpointing is True
    assert memory_plan.decided(one_b(), 1).gradient_checkpointing is True  # nothing fits: the least
    for asked in (True, False):
        assert memory_plan.decided(one_b(gradient_checkpointing=asked), 1).gradient_checkpointing is asked


def test_more_of_anything_takes_more_and_sharding_takes_less() -> None:
    def total(**changes: object) -> int:
        return memory_plan.plan(one_b(gradient_checkpointing=False, **changes)).total

    assert total(batch_size_per_process=4) < total(batch_size_per_process=16) < total()
    assert total() < total(noise_draws_per_sample=4)
    assert total(sharding="fsdp2") < total(sharding="zero1") < total()
    assert total(mixed_precision="no") > total()
    alone = memory_plan.plan(one_b(num_processes=1))
    assert alone.ema == alone.weights
    assert alone == memory_plan.plan(one_b(num_processes=1, sharding="fsdp2"))  # nothing to shard


def test_ways_to_fit_change_as_little_as_they_can_and_keep_the_global_batch() -> None:
    asked = one_b(gradient_checkpointing=False)
    ways = memory_plan.ways_to_fit(asked, 40_000 << 20)
    assert [memory_plan.changed(asked, way) for way in ways] == [
        {"gradient_checkpointing": True}, {"batch_size_per_process": 8, "gradient_accumulation_steps": 4}]
    for way in ways:
        assert way.global_batch_size == asked.global_batch_size
        assert memory_plan.plan(way).total <= 40_000 << 20
    assert memory_plan.ways_to_fit(asked, GPU_80)[0] == asked


def test_rdt_1b_fits_eight_gpus_of_24_gb_and_not_one() -> None:
    asked = one_b()
    assert memory_plan.plan(asked).total > GPU_24
    assert memory_plan.changed(asked, memory_plan.ways_to_fit(asked, GPU_24)[0]) == {"sharding": "zero1"}
    assert memory_plan.ways_to_fit(one_b(num_processes=1), GPU_24) == []
    assert memory_plan.plan(replace(preset("rdt_170m"), num_processes=1)).total < GPU_24


ROWS = (
    ("weights", "4 P", lambda p: p.weights),
    ("Adam's two moments", "8 P", lambda p: p.moments), ("EMA weights, a share each", "4 P", lambda p: p.ema),
    ("SigLIP in bf16, 428 M parameters", "", lambda p: p.vision_encoder),
    ("groups of gradients, or whole blocks, on their way", "", lambda p: p.in_transit), ("held", "", lambda p: p.held),
    ("gradients", "4 P", lambda p: p.gradients),
    ("bf16 copies of the weights that autocast makes", "2 P", lambda p: p.weight_copies),
    ("while validating: the EMA weights whole, keys and values of 8 predictions", "", lambda p: p.validation),
    ("reserve: CUDA, NCCL, cuBLAS, fragments", "", lambda p: p.reserve))


def parts() -> list[str]:
    """The rows of the first table: the preset libero_single_task on eight GPUs."""
    plans = [memory_plan.plan(replace(preset("libero_single_task"), sharding=sharding, gradient_checkpointing=False))
             for sharding in SHARDINGS]
    return [f"| {name} | {per_parameter} | {' | '.join(gigabytes(part(plan)) for plan in plans)} |"
            for name, per_parameter, part in ROWS]


def totals() -> list[str]:
    """The rows of the second table: what a GPU must have free."""
    rows = []
    for model, batch in (("rdt_1b", 4), ("rdt_1b", 32), ("rdt_170m", 32)):
        for recomputes in (False, True):
            asked = replace(preset(model), batch_size_per_process=batch, gradient_checkpointing=recomputes)
            plans: list[MemoryPlan] = [memory_plan.plan(replace(asked, num_processes=1)), *(
                memory_plan.plan(replace(asked, sharding=sharding)) for sharding in SHARDINGS)]
            rows.append(f"| {asked.model}, {batch} samples{', gradient checkpointing' * recomputes} | "
                        f"{gigabytes(plans[0].activations)} | "
                        f"{' | '.join(f'{plan.total / 1e9:.1f}' for plan in plans)} |")
    return rows


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}"


@pytest.mark.parametrize("rows", [parts, totals])
def test_the_tables_of_the_document_are_the_plan(rows) -> None:
    assert "\n".join(rows()) in DOCUMENT.read_text(encoding="utf-8"), "\n".join(rows())
