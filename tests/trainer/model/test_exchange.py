"""Checkpoints for the code of RDT's authors, and from it. Their class is a PyTorchModelHubMixin of huggingface_hub,
which is installed here; RDTRunner below has its name, its keyword arguments and its modules, and reads config.json as
theirs does. What their modules compute is recorded (fixtures/rdt_parity), and so are keys and shapes (rdt_shapes)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rdtops.contract.models import MODELS
from rdtops.trainer.loop import checkpoint
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy
from tests.trainer.conftest import PARITY, SHAPES

CONDITIONS = ("lang_tokens", "lang_attn_mask", "img_tokens", "state_tokens", "action_mask", "ctrl_freqs")
KEYWORDS = ("action_dim", "pred_horizon", "lang_token_dim", "img_token_dim", "state_token_dim", "max_lang_cond_len",
            "img_cond_len", "lang_pos_embed_config", "img_pos_embed_config")
# what models/rdt_runner.py of the authors takes from the `config` of a checkpoint, beside its keyword arguments
READ = {"rdt": ("hidden_size", "depth", "num_heads"), "lang_adaptor": (), "img_adaptor": (), "state_adaptor": (),
        "noise_scheduler": ("num_train_timesteps", "beta_schedule", "prediction_type", "clip_sample",
                            "num_inference_timesteps")}


class RDTRunner(nn.Module, PyTorchModelHubMixin):
    """The authors' class as huggingface_hub sees it: what comes from config.json are these keyword arguments."""

    def __init__(self, *, action_dim, pred_horizon, config, lang_token_dim, img_token_dim, state_token_dim,
                 max_lang_cond_len, img_cond_len, lang_pos_embed_config=None, img_pos_embed_config=None,
                 dtype=torch.bfloat16) -> None:
        super().__init__()
        self.read = {key: {part: config[key][part] for part in parts} if parts else config[key]
                     for key, parts in READ.items()}
        own = RDTPolicy({
            **self.read, "action_dim": action_dim, "pred_horizon": pred_horizon, "lang_token_dim": lang_token_dim,
            "img_token_dim": img_token_dim, "state_token_dim": state_token_dim, "max_lang_cond_len": max_lang_cond_len,
            "img_cond_len": img_cond_len, "lang_pos_embed_config": lang_pos_embed_config,
            "img_pos_embed_config": img_pos_embed_config}).to(dtype)
        for name, module in own.named_children():
            self.add_module(name, module)


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return torch.load(PARITY / "hub_bin" / "pytorch_model.bin", weights_only=True)


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "fixtures.safetensors")


def predicted(policy: RDTPolicy, recorded: dict[str, torch.Tensor]) -> torch.Tensor:
    return policy.eval().predict_action(**{name: recorded[f"in.{name}"] for name in CONDITIONS},
                                        noise=recorded["in.sample_noise"])


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def headers(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Return the types and shapes of a file as it lies there."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def test_theirs_to_ours_to_theirs_is_the_same_bit_by_bit(published, recorded, tmp_path) -> None:
    ours = RDTPolicy.from_pretrained(PARITY / "hub_bin")
    torch.testing.assert_close(predicted(ours, recorded), recorded["out.predict_action"], atol=1e-6, rtol=0)
    ours.save_pretrained(tmp_path)
    theirs = RDTRunner.from_pretrained(tmp_path, strict=True, dtype=torch.float32)
    assert same(dict(theirs.state_dict()), published)
    again = RDTPolicy.from_pretrained(tmp_path)
    assert same(dict(again.state_dict()), published)
    assert torch.equal(predicted(again, recorded), predicted(ours, recorded))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_their_class_saves_is_read(published, recorded, tmp_path, name) -> None:
    """Both forms: the authors' class writes pytorch_model.bin, huggingface_hub by itself model.safetensors."""
    config = json.loads((PARITY / "hub_bin" / "config.json").read_text())
    theirs = RDTRunner(config=config, **{key: config[key] for key in KEYWORDS}, dtype=torch.float32)
    theirs.load_state_dict(published)
    theirs.save_pretrained(tmp_path)
    if name == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / name)
    ours = RDTPolicy.from_pretrained(tmp_path)
    assert same(dict(ours.state_dict()), published)
    assert ours.config == RDTPolicy.from_pretrained(PARITY / "hub_bin").config
    torch.testing.assert_close(predicted(ours, recorded), recorded["out.predict_action"], atol=1e-6, rtol=0)


def test_config_json_has_what_their_class_reads_and_one_key_more(tmp_path) -> None:
    RDTPolicy.from_pretrained(PARITY / "hub_bin").save_pretrained(tmp_path)
    theirs = json.loads((PARITY / "hub_bin" / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text()) == {**theirs, "norm": "timm_1_0_3"}
    assert RDTRunner.from_pretrained(tmp_path, strict=True).read["noise_scheduler"] == {
        key: theirs["noise_scheduler"][key] for key in READ["noise_scheduler"]}


@pytest.mark.parametrize("name", ["rdt-1b", "rdt-170m"])
def test_the_large_models_have_their_keys_shapes_and_config(name) -> None:
    """Built without numbers: 1.2 billion of them would take a minute."""
    theirs: dict[str, Any] = json.loads((SHAPES / f"{name}.config.json").read_text())
    with torch.device("meta"):
        ours = RDTPolicy(ARCHITECTURES[name])
        runner = RDTRunner(config=theirs, **{key: theirs[key] for key in KEYWORDS}, dtype=torch.float32)
    table = json.loads((SHAPES / f"{name}.shapes.json").read_text())
    for model in (ours, runner):
        assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == table
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert ours.config == {**theirs, "norm": "timm_1_0_3"}
    assert {key: list(shape) for key, shape in MODELS[name].tensor_shapes.items()} == table


def test_a_checkpoint_of_a_training_is_theirs_to_load(prepare, train_here) -> None:
    spec = prepare("run", "max_steps=1", "checkpoint_every_steps=1", "sample_every_steps=0", "num_processes=1")
    assert train_here(spec) == 0
    folder = Path(spec.paths.checkpoints) / "step_000001"
    for place in (folder, folder / checkpoint.EMA):
        theirs = RDTRunner.from_pretrained(place, strict=True, dtype=torch.float32)
        assert same(dict(theirs.state_dict()), dict(RDTPolicy.from_pretrained(place).state_dict()))
        assert headers(place / "model.safetensors") == {
            name: ("F32", list(shape)) for name, shape in MODELS["tiny"].tensor_shapes.items()}


def test_a_key_of_another_name_would_be_noticed(published, tmp_path) -> None:
    """What the other tests hold depends on a strict load."""
    RDTPolicy.from_pretrained(PARITY / "hub_bin").save_pretrained(tmp_path)
    save_file({f"x.{name}": tensor for name, tensor in published.items()}, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"Missing key"):
        RDTRunner.from_pretrained(tmp_path, strict=True)
