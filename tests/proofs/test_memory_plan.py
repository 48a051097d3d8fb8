"""The memory plan and the FLOPs, which are formulas, against a count of the trainer's own operations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proofs.trainer_bench import step_cost
from rdtops.contract import memory_plan, model_flops
from rdtops.contract.config import TrainConfig, preset
from rdtops.contract.models import EXISTING_FRAMES, MODELS, ModelFacts
from rdtops.trainer.loop.sampling import SAMPLES_PREDICTED
from rdtops.trainer.model.rdt import ARCHITECTURES

PRESETS = {"rdt-170m": "rdt_170m", "rdt-1b": "rdt_1b"}
SHALLOW = 2


@pytest.fixture(autouse=True)
def instruction_of_the_count(monkeypatch) -> None:
    monkeypatch.setattr(memory_plan, "WORDS", step_cost.WORDS)


@pytest.fixture
def shallow(monkeypatch) -> dict[str, ModelFacts]:
    """The published models with two blocks each, and a SigLIP of one layer: all else grows with the depth alone."""
    monkeypatch.setattr(step_cost, "SIGLIP", {**step_cost.SIGLIP, "num_hidden_layers": 1})
    made = {name: replace(MODELS[name], depth=SHALLOW) for name in PRESETS}
    for name, facts in made.items():
        monkeypatch.setitem(MODELS, name, facts)
    return made


def of(model: str, batch: int, *, checkpointing: bool) -> TrainConfig:
    return replace(preset(PRESETS[model]), batch_size_per_process=batch, gradient_checkpointing=checkpointing)


def agree(config: TrainConfig, architecture=None) -> None:
    checkpointing = config.gradient_checkpointing is True
    counted = step_cost.step_cost(config.model, config.batch_size_per_process, gradient_checkpointing=checkpointing,
                                  architecture=architecture)
    planned = memory_plan.kept_bytes(config, checkpointing=checkpointing)
    model = MODELS[config.model]  # SigLIP's output was there before the forward pass, so it is not in the count
    seen = 2 * (EXISTING_FRAMES * config.batch_size_per_process + 1) * model.img_patches * model.img_width
    assert planned == pytest.approx(counted.kept_bytes - counted.weights_kept_bytes + seen, rel=0.02)
    if not checkpointing:
        useful = model_flops.training_flops(config.model, config.batch_size_per_process, words=step_cost.WORDS)
        assert useful == pytest.approx(sum(counted.phases[name].flops for name in ("forward", "backward")), rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("model", "batch"), [("rdt-170m", 1), ("rdt-1b", 4), ("rdt-1b", 32)])
def test_what_a_shallow_model_keeps_and_computes_is_as_planned(shallow, model, batch, checkpointing) -> None:
    config = ARCHITECTURES[model]
    agree(of(model, batch, checkpointing=checkpointing), {**config, "rdt": {**config["rdt"], "depth": SHALLOW}})


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("model", PRESETS)
def test_what_a_whole_model_keeps_and_computes_is_as_planned(monkeypatch, model, batch, checkpointing) -> None:
    monkeypatch.setattr(step_cost, "SIGLIP", {**step_cost.SIGLIP, "num_hidden_layers": 1})
    agree(of(model, batch, checkpointing=checkpointing))


def test_the_flops_of_siglip_are_those_that_are_counted() -> None:
    shallow = {**ARCHITECTURES["rdt-170m"], "rdt": {**ARCHITECTURES["rdt-170m"]["rdt"], "depth": SHALLOW}}
    counted = step_cost.step_cost("rdt-170m", 1, architecture=shallow).phases["encode"].flops
    assert model_flops.encoding_flops("rdt-1b", 4) == pytest.approx(counted, rel=0.01)


def test_the_plan_predicts_as_many_samples_as_the_trainer() -> None:
    assert memory_plan.PREDICTED == SAMPLES_PREDICTED
