from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdtops.errors import WeightsError
from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import PARITY


@pytest.fixture
def folder(tmp_path) -> Path:
    """config.json and pytorch_model.bin, as the hub has rdt-1b."""
    return Path(shutil.copytree(PARITY / "hub_bin", tmp_path / "weights"))


@pytest.fixture
def tensors(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def refused(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        RDTPolicy.from_pretrained(folder)
    return caught.value.message


def test_safetensors_come_before_pytorch_model_bin(folder, tensors) -> None:
    tensors["img_adaptor.0.bias"] = torch.full((64,), 7.0)
    save_file(tensors, folder / "model.safetensors")
    assert RDTPolicy.from_pretrained(folder).img_adaptor[0].bias[0] == 7


@pytest.mark.parametrize("place", ["mp_rank_00_model_states.pt", "pytorch_model/mp_rank_00_model_states.pt"])
def test_deepspeed_states_are_the_last_resort(folder, tensors, place) -> None:
    (folder / "pytorch_model.bin").unlink()
    (folder / place).parent.mkdir(exist_ok=True)
    torch.save({"module": {k: v.bfloat16() for k, v in tensors.items()}, "dp_world_size": 8}, folder / place)
    policy = RDTPolicy.from_pretrained(folder)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}  # master weights, whatever was stored


def test_missing_unexpected_and_misshapen_keys_are_all_named(folder, tensors) -> None:
    del tensors["img_adaptor.0.bias"]
    tensors["model.extra"] = torch.zeros(3)
    tensors["model.x_pos_embed"] = torch.zeros(1, 67, 64)
    save_file(tensors, folder / "model.safetensors")
    message = refused(folder)
    assert "1 missing (img_adaptor.0.bias)" in message
    assert "1 unexpected (model.extra)" in message
    assert "model.x_pos_embed is (1, 67, 64), the model needs (1, 11, 64)" in message


def test_weights_of_another_architecture_are_counted_and_not_loaded_in_part(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["rdt"] = {**config["rdt"], "depth": 6, "hidden_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    message = refused(folder)
    assert re.search(r"\d+ missing \(model.blocks.4.", message)
    assert "more)" in message
    assert len(message) < 4000


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_said_to_be_incomplete(folder, tensors, name, share) -> None:
    save_file(tensors, folder / "model.safetensors")
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    os.truncate(folder / name, int((folder / name).stat().st_size * share))
    message = refused(folder)
    assert name in message
    assert ("is empty" if share == 0 else "damaged") in message


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("code_was_run"),)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(folder, tmp_path, monkeypatch, save) -> None:
    monkeypatch.chdir(tmp_path)
    save({"img_adaptor.0.bias": Payload()}, folder / "pytorch_model.bin")
    assert "could run code" in refused(folder)
    assert not Path("code_was_run").exists()


def test_a_folder_without_weights_or_config_says_so(folder) -> None:
    (folder / "pytorch_model.bin").unlink()
    assert "has no weights: none of model.safetensors, pytorch_model.bin" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refused(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)


@pytest.mark.parametrize(("key", "value", "says"), [
    ("img_adaptor", "mlp2x_relu", "unknown adaptor 'mlp2x_relu'"),
    ("norm", "layer", "norm = 'layer'"),
    ("use_flow_matching", True, "keys that this RDT does not know: use_flow_matching"),
    ("rdt", {"hidden_size": 64, "depth": 4, "num_heads": 4, "qk_norm": False}, "does not know: rdt.qk_norm"),
    ("noise_scheduler", {"type": "flow"}, "noise_scheduler.type = 'flow', must be ddpm"),
    ("noise_scheduler", {"type": "ddpm", "prediction_type": "v_prediction"}, "must be sample or epsilon"),
    ("noise_scheduler", {"type": "ddpm", "rescale_betas_zero_snr": True}, "noise_scheduler.rescale_betas_zero_snr"),
])
def test_an_unknown_part_of_the_config_is_refused(folder, key, value, says) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    assert says in refused(folder)


def test_the_config_of_another_model_is_refused(folder) -> None:
    (folder / "config.json").write_text('{"model_type": "t5"}')
    assert "does not describe an RDT: it lacks action_dim" in refused(folder)


def test_a_file_that_is_no_table_of_tensors_is_refused(folder) -> None:
    torch.save([torch.zeros(3)], folder / "pytorch_model.bin")
    assert "must hold a table of tensors" in refused(folder)


@pytest.mark.parametrize("key", ["_name_or_path", "torch_dtype", "architectures", "transformers_version"])
def test_notes_in_a_config_change_nothing(folder, key) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: "x"}))
    RDTPolicy.from_pretrained(folder)
