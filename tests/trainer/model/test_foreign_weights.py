"""Weights as other people pass them on: in parts, wrapped, half there, or something else under their name. Check and
training read the same, and say the same of what they do not read."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdtops.errors import WeightsError
from rdtops.on_host import weight_shapes
from rdtops.trainer.model import weights
from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import PARITY

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 2456755578\n".format("0" * 64)
PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return torch.load(PARITY / "hub_bin" / "pytorch_model.bin", weights_only=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with config.json and no weights yet."""
    (tmp_path / "weights").mkdir()
    shutil.copy(PARITY / "hub_bin" / "config.json", tmp_path / "weights")
    return tmp_path / "weights"


def read_as_published(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Check that the training gets the published tensors, bit by bit, and that the check agrees."""
    loaded = RDTPolicy.from_pretrained(folder).state_dict()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    seen = weight_shapes.look(str(folder))
    assert (seen["problem"], bool(seen["config"])) == ("", True)
    assert sorted(seen["shapes"].values()) == sorted(list(tensor.shape) for tensor in tensors.values())


def refused(folder: Path) -> WeightsError:
    """Return the error of the training; the check finds the same problem and remedy before."""
    with pytest.raises(WeightsError) as caught:
        RDTPolicy.from_pretrained(folder)
    seen = weight_shapes.look(str(folder))
    assert (seen["problem"], seen["remedy"]) == (caught.value.message, caught.value.remedy)
    return caught.value


def in_parts(folder: Path, tensors: dict[str, torch.Tensor], suffix: str = ".safetensors", count: int = 3) -> Path:
    """Write weights in parts with their index, as transformers does. Return the index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names, places = sorted(tensors), {}
    for number in range(count):
        part = f"{stem}-{number + 1:05}-of-{count:05}{suffix}"
        held = {name: tensors[name] for name in names[number::count]}
        save_file(held, folder / part) if suffix == ".safetensors" else torch.save(held, folder / part)
        places |= dict.fromkeys(held, part)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}))
    return index


# --- read ---

@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_parts_are_read(folder, tensors, suffix) -> None:
    in_parts(folder, tensors, suffix)
    read_as_published(folder, tensors)


@pytest.mark.parametrize("name", [
    "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "pytorch_model_fsdp.bin",
    "mp_rank_00_model_states.pt", "pytorch_model/mp_rank_00_model_states.pt"])
def test_names_of_other_programs_are_read(folder, tensors, name) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    save_file(tensors, folder / name) if name.endswith("tensors") else torch.save(tensors, folder / name)
    read_as_published(folder, tensors)


@pytest.mark.parametrize("rename", [
    "module.{}", "_orig_mod.{}", "module._orig_mod.{}", "model.module.{}", "ema_model.{}", "ema.{}", "its.runner.{}"])
def test_what_a_training_puts_before_the_names_is_left_out(folder, tensors, rename) -> None:
    save_file({rename.format(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    read_as_published(folder, tensors)


def test_a_part_of_the_model_that_was_compiled_is_read(folder, tensors) -> None:
    save_file({name.replace("model.", "model._orig_mod.", 1): tensor for name, tensor in tensors.items()},
              folder / "model.safetensors")
    read_as_published(folder, tensors)


@pytest.mark.parametrize("wrapped", [
    lambda t: {"module": t, "dp_world_size": 8, "param_shapes": [{"a": torch.Size([1])}], "optimizer": None},
    lambda t: {"state_dict": {f"model.{name}": tensor for name, tensor in t.items()}, "epoch": 3, "callbacks": {}},
    lambda t: {"model_state_dict": t, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-4}]}}])
def test_tensors_below_a_key_are_read(folder, tensors, wrapped) -> None:
    torch.save(wrapped(tensors), folder / "pytorch_model.bin")
    read_as_published(folder, tensors)


def test_a_file_of_torch_before_1_6_is_read(folder, tensors) -> None:
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    read_as_published(folder, tensors)
    os.truncate(folder / "pytorch_model.bin", 700_000)
    assert "it holds 700 kB of 1." in refused(folder).message


def test_parameters_and_views_of_one_storage_are_read(folder, tensors) -> None:
    one = torch.cat([tensor.flatten() for tensor in tensors.values()])
    views = iter(one.split([tensor.numel() for tensor in tensors.values()]))
    torch.save({name: torch.nn.Parameter(next(views).view_as(tensor)) for name, tensor in tensors.items()},
               folder / "pytorch_model.bin")
    read_as_published(folder, tensors)


@pytest.fixture
def loss_scaler(monkeypatch) -> object:
    """An object of a class of DeepSpeed, which is not installed."""
    for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16", "deepspeed.runtime.fp16.loss_scaler"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    scaler = type("LossScaler", (), {"__module__": "deepspeed.runtime.fp16.loss_scaler"})
    monkeypatch.setattr(sys.modules["deepspeed.runtime.fp16.loss_scaler"], "LossScaler", scaler, raising=False)
    return scaler()


def test_the_states_of_a_deepspeed_training_are_read_and_its_loss_scaler_is_not_made(
        folder, tensors, loss_scaler, monkeypatch) -> None:
    path = folder / "mp_rank_00_model_states.pt"
    torch.save({"module": {f"module.{name}": tensor for name, tensor in tensors.items()}, "ds_version": "0.14.2",
                "optimizer": {"loss_scaler": loss_scaler, "overflow": False}, "args": argparse.Namespace(lr=1e-4),
                "where": Path("/tmp"), "ds_config": {"fp16": {"enabled": True}}, "seen": {3, 4}}, path)
    for name in list(sys.modules):
        if name.startswith("deepspeed"):
            monkeypatch.delitem(sys.modules, name)
    read_as_published(folder, tensors)
    assert "deepspeed" not in sys.modules
    with pytest.raises(pickle.UnpicklingError):  # what torch itself makes of it
        torch.load(path, weights_only=True)


def test_a_snapshot_of_the_hub_s_cache_and_the_one_folder_in_a_folder_are_found(tmp_path, folder, tensors) -> None:
    save_file(tensors, folder / "model.safetensors")
    (tmp_path / "unpacked").mkdir()
    shutil.copytree(folder, tmp_path / "unpacked" / "rdt-tiny")
    read_as_published(tmp_path / "unpacked", tensors)

    repository = tmp_path / "models--robots--rdt"
    snapshot, blobs = repository / "snapshots" / "0123abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    read_as_published(repository, tensors)
    read_as_published(snapshot, tensors)
    (blobs / "1").unlink()
    assert "model.safetensors is a link to '../../blobs/1', which does not exist" in refused(snapshot).message


# --- refused by name, with the way out ---

def test_a_file_that_is_still_coming_is_no_weights(folder, tensors) -> None:
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors.aria2").touch()
    assert "model.safetensors is still coming, or its download was interrupted" in refused(folder).message


@pytest.mark.parametrize("content", [POINTER, PAGE, '{"error": "Repository not found"}', "", "\0" * 5000])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt"])
def test_something_else_in_place_of_weights_is_named(folder, name, content) -> None:
    (folder / name).write_text(content)
    error = refused(folder)
    what = {POINTER: "a Git LFS pointer of a 2.46 GB file", PAGE: "a web page (HTML): 'Sign in'", "": "empty",
            "\0" * 5000: "zeros in its first 4096 bytes"}.get(content, "a JSON text: 'Repository not found'")
    assert f"{folder / name} is {what}" in error.message
    assert {POINTER: "git lfs pull", "": "inv deploy", "\0" * 5000: "inv deploy"}.get(
        content, "hf download") in error.remedy


def test_something_else_in_place_of_a_part_or_the_index_is_named(folder, tensors) -> None:
    index = in_parts(folder, tensors)
    part = folder / "model-00002-of-00003.safetensors"
    whole = part.read_bytes()
    part.write_text(POINTER)
    assert f"{part} is a Git LFS pointer" in refused(folder).message
    part.write_bytes(whole)
    index.write_text(PAGE)
    assert f"{index} is a web page" in refused(folder).message


@pytest.mark.parametrize("content", [POINTER, PAGE, ""])
def test_something_else_in_place_of_config_json_is_named(folder, content) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json is not JSON: it is (a Git LFS|a web page|empty)"):
        weights.read_config(folder)
    seen = weight_shapes.look(str(folder))
    assert str(seen["config"]).startswith(f"{folder / 'config.json'} is ")


@pytest.mark.parametrize(("change", "says"), [
    (lambda f, _: (f / "model-00002-of-00003.safetensors").unlink(),
     "1 of 3 parts that model.safetensors.index.json names are missing: model-00002-of-00003.safetensors"),
    (lambda f, _: (f / "model-00002-of-00003.safetensors").rename(f / "model-00002-of-00003.safetensors.incomplete"),
     "model-00002-of-00003.safetensors.incomplete is still coming"),
    (lambda f, t: save_file({"img_adaptor.0.bias": t["img_adaptor.0.bias"]}, f / "model-00001-of-00003.safetensors"),
     "the parts are not those of model.safetensors.index.json: "),
    (lambda f, _: shutil.copy(f / "model-00001-of-00003.safetensors", f / "model-00002-of-00003.safetensors"),
     "is in model-00001-of-00003.safetensors and in model-00002-of-00003.safetensors"),
    (lambda f, _: (f / "model.safetensors.index.json").unlink(),
     "no model.safetensors.index.json to say what they hold"),
    (lambda f, _: os.truncate(f / "model-00003-of-00003.safetensors", 200_000), "it holds 200 kB of ")])
def test_parts_that_do_not_make_a_whole_are_refused(folder, tensors, change, says) -> None:
    in_parts(folder, tensors)
    change(folder, tensors)
    assert says in refused(folder).message


@pytest.mark.parametrize(("change", "says"), [
    (lambda index: {**index, "metadata": {"total_size": 5}}, "bytes of tensors, it says 5"),
    (lambda index: {**index, "weight_map": {}}, "names no parts"),
    (lambda index: {**index, "weight_map": {"a": "../../etc/passwd"}}, "names '../../etc/passwd' as a part"),
    (lambda index: {**index, "weight_map": {"a": 3}}, "names '3' as a part"),
    (lambda index: {**index, "weight_map": {**index["weight_map"], "odd": "model-00001-of-00003.safetensors"}},
     "odd is in none of them"),
    (lambda index: [index], "names no parts")])
def test_an_index_of_other_parts_is_refused(folder, tensors, change, says) -> None:
    index = in_parts(folder, tensors)
    index.write_text(json.dumps(change(json.loads(index.read_text()))))
    assert says in refused(folder).message


def empty(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(("names", "says", "remedy"), [
    ([], "has no weights: none of model.safetensors, pytorch_model.bin", "inv deploy"),
    (["model.safetensors.incomplete"], "model.safetensors.incomplete is still coming", "hf download"),
    (["pytorch_model.bin.part"], "pytorch_model.bin.part is still coming", "hf download"),
    (["zero_to_fp32.py", "latest", "global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt",
      "global_step9/zero_pp_rank_1_mp_rank_00_model_states.pt"], "DeepSpeed ZeRO-3: its weights are split over 2 ranks",
     "python zero_to_fp32.py . pytorch_model.bin"),
    (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "model-parallel ranks", "zero_to_fp32.py"),
    (["latest", "global_step9/mp_rank_00_model_states.pt"], "a folder of DeepSpeed's checkpoints", "global_step9, wi"),
    (["pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"], "a sharded checkpoint of FSDP",
     "accelerate merge-weights"),
    (["ema/model.safetensors", "random_states_0.pkl", "scheduler.bin"], "no weights of its own, but ema/ in it has",
     "ema as the weights"),
    (["adapter_model.safetensors", "adapter_config.json"], "a LoRA adapter", "merge_and_unload"),
    (["flax_model.msgpack"], "has weights of Flax (flax_model.msgpack) only", "hf download"),
    (["rdt.safetensors", "optimizer.bin"], "has no model.safetensors, but rdt.safetensors",
     "mv rdt.safetensors model.safetensors"),
    (["rdt_step_9.ckpt"], "has no pytorch_model.bin, but rdt_step_9.ckpt", "mv rdt_step_9.ckpt pytorch_model.bin")])
def test_a_folder_without_weights_is_called_what_it_is(folder, names, says, remedy) -> None:
    empty(folder, *names)
    error = refused(folder)
    assert says in error.message
    assert remedy in error.remedy


def test_a_checkpoint_without_config_json_says_whose_to_take(folder, tensors) -> None:
    (folder / "config.json").unlink()
    (folder / "pytorch_model").mkdir()
    torch.save({"module": tensors}, folder / "pytorch_model" / "mp_rank_00_model_states.pt")
    with pytest.raises(WeightsError, match=r"has no config\.json") as caught:
        RDTPolicy.from_pretrained(folder)
    assert caught.value.remedy.startswith(f"cp PRETRAINED/config.json {folder}/")


def test_a_file_with_the_model_and_its_ema_is_refused(folder, tensors) -> None:
    save_file({f"{way}.{name}": tensor.clone() for name, tensor in tensors.items() for way in ("model", "ema_model")},
              folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"holds the model 2 times: below ema_model\. and model\."):
        RDTPolicy.from_pretrained(folder)


def test_two_tables_of_the_same_tensors_are_refused(folder, tensors) -> None:
    torch.save({"model": tensors, "ema": {name: tensor * 2 for name, tensor in tensors.items()}, "epoch": 3},
               folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"it holds the same tensors 2 times: below model, ema"):
        RDTPolicy.from_pretrained(folder)


def test_a_hole_in_the_middle_of_a_file_is_found(folder, tensors) -> None:
    """As a download leaves it that gives the file its whole size at once."""
    save_file(tensors, folder / "model.safetensors")
    path = folder / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size // 3))
    with pytest.raises(WeightsError, match=r"tensors hold zeros alone \(.*: a hole that an interrupted copy left"):
        RDTPolicy.from_pretrained(folder)


def test_a_folder_with_the_name_of_a_file_is_called_one(folder) -> None:
    (folder / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"model\.safetensors is a folder, not a file"):
        RDTPolicy.from_pretrained(folder)


@pytest.mark.parametrize("values", [
    {"num_inference_timesteps": 0}, {"num_inference_timesteps": 2000}, {"num_inference_timesteps": 5.0},
    {"num_train_timesteps": True}, {"beta_schedule": "cosine"}, {"clip_sample": None}, {"prediction_type": "velocity"}])
def test_a_diffusion_that_cannot_be_solved_is_refused_when_the_weights_are_read(folder, tensors, values) -> None:
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["noise_scheduler"].update(values)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"^config\.json: noise_scheduler\.\w+ = "):
        RDTPolicy.from_pretrained(folder)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_half_download_says_how_much_of_it_is_there(folder, tensors, share) -> None:
    for name, save in (("pytorch_model.bin", lambda path: torch.save(tensors, path)),
                       ("model.safetensors", lambda path: save_file(tensors, path))):
        save(folder / name)
        size = (folder / name).stat().st_size
        os.truncate(folder / name, int(size * share))
        message = refused(folder).message
        assert f"{name}: damaged or incomplete: " in message
        whole = "its end is missing" if name.endswith("bin") else " of 1063408 bytes"
        assert {0.02: "", 0.5: " of 1.0", 0.999: whole}[share] in message
        (folder / name).unlink()


@pytest.mark.parametrize(("name", "value"), [("x_pos_embed", "pred_horizon 4 instead of 8"),
                                             ("lang_cond_pos_embed", "max_lang_cond_len 7 instead of 16")])
def test_weights_of_another_horizon_or_length_are_named_by_what_they_are(folder, tensors, name, value) -> None:
    save_file({**tensors, f"model.{name}": torch.zeros(1, 7, 64)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=f"by its shapes it has {value}"):
        RDTPolicy.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_of_floats_is_read(folder, tensors, dtype) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
    loaded = RDTPolicy.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor.to(dtype).float()) for name, tensor in tensors.items())


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_eight_bits_without_their_scale_are_refused(folder, tensors, save) -> None:
    name = "model.safetensors" if save is save_file else "pytorch_model.bin"
    save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}, folder / name)
    with pytest.raises(WeightsError, match=r"img_adaptor\.0\.bias: float8_e4m3fn.*read from float64, float32"):
        RDTPolicy.from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none_are_found_when_weights_are_loaded(folder, tensors, value, dtype) -> None:
    broken = {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}
    broken["model.blocks.1.ffn.fc1.weight"][3, 5:7] = value
    save_file(broken, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: 1 of 114 tensors hold NaN or infinite numbers "
                                           r"\(model\.blocks\.1\.ffn\.fc1\.weight: 2 of 4096\)"):
        RDTPolicy.from_pretrained(folder)


def shell(line: str) -> object:
    return type("Call", (), {"__reduce__": lambda _: (os.system, (line,))})()


@pytest.mark.parametrize("place", [lambda t, call: {**t, "img_adaptor.0.bias": call},
                                   lambda t, call: {"module": t, "optimizer": call}])
def test_code_is_named_and_not_run_and_no_advice_switches_the_safety_off(folder, tensors, tmp_path, place) -> None:
    torch.save(place(tensors, shell(f"touch {tmp_path}/ran")), folder / "pytorch_model.bin")
    error = refused(folder)
    assert "pytorch_model.bin: it holds more than tensors: posix.system" in error.message
    assert "weights_only" not in error.message
    assert "add_safe_globals" not in error.message + error.remedy
    assert error.remedy.startswith("where you trust the file, for this runs its code: ")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_named_and_its_conversion_works(folder, tensors) -> None:
    torch.save(RDTPolicy.from_pretrained(PARITY / "hub_bin"), folder / "pytorch_model.bin")
    error = refused(folder)
    assert "it holds more than tensors: rdtops.trainer.model.rdt.RDTPolicy" in error.message
    line = error.remedy.partition("python -c ")[2].strip('"')
    exec(compile(line, "remedy", "exec"), {})
    assert (folder / "model.safetensors").is_file()
    read_as_published(folder, tensors)


@pytest.mark.parametrize("call", [os.system, eval, exec, getattr, __import__, open, torch.load, pickle.loads],
                         ids=lambda call: call.__name__)
def test_beside_the_tensors_no_function_is_harmless(folder, tensors, call) -> None:
    made = type("Call", (), {"__reduce__": lambda _: (call, ("x",))})()
    torch.save({"module": tensors, "args": argparse.Namespace(), "more": made}, folder / "mp_rank_00_model_states.pt")
    assert "it holds more than tensors: " in refused(folder).message
