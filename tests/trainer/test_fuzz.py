"""Damage of every kind to what the trainer reads: an error of ours that says where, or a good result, never anything
else. The examples are few, the suite is short; `FUZZ=2000 pytest tests/trainer/test_fuzz.py` makes them many.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rdtops.errors import WeightsError
from rdtops.hostlib import manifest
from rdtops.trainer.loop import checkpoint
from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import ALONE, PARITY, REPOSITORY, Demonstrations

MANY = int(os.environ.get("FUZZ", "60"))
fuzzed = settings(max_examples=MANY, deadline=None, derandomize=True,
                  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@st.composite
def damages(draw, size: int) -> list[tuple[str, int, bytes | int]]:
    """Flipped bits, bytes overwritten, an end cut off."""
    place = st.integers(0, size - 1)
    kinds = st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("write"), place, st.one_of(st.binary(min_size=1, max_size=64),
                                                     st.sampled_from([b"\0" * 64, b"\xff" * 64]))),
        st.tuples(st.just("cut"), place, st.just(0)))
    return draw(st.lists(kinds, min_size=1, max_size=8))


def damaged(content: bytes, damage: list[tuple[str, int, bytes | int]]) -> bytes:
    changed = bytearray(content)
    for kind, place, what in damage:
        if place >= len(changed):
            continue
        if kind == "flip":
            changed[place] ^= 1 << what
        elif kind == "write":
            changed[place:place + len(what)] = what
        else:
            del changed[place:]
    return bytes(changed)


# demonstrations -----------------------------------------------------------------------------------------------------

READER = """
import signal, sys
from rdtops.errors import DataError
from rdtops.trainer.data import isolation, libero
isolation._announce = lambda name: None
for line in sys.stdin:
    signal.alarm(5)  # ends a libhdf5 that loops; a training would be told by the quarantine
    try:
        found = isolation._read_everything(line.strip())
        print(f"refused {found.message}" if isinstance(found, DataError) else "read", flush=True)
    except BaseException as error:
        print(f"ESCAPED {error!r}", flush=True)
    signal.alarm(0)
"""


class Reader:
    """A process that reads folders of demonstrations, replaced when libhdf5 hangs or crashes in it."""

    def __init__(self) -> None:
        self.process = self._start()

    def read(self, folder: Path) -> str:
        self.process.stdin.write(f"{folder}\n".encode())
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], 30)[0]
        told = self.process.stdout.readline().decode()
        if not told:
            self.close()
            self.process = self._start()
        return told.strip() or "died"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-W", "error", "-c", READER], cwd=REPOSITORY, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory) -> bytes:
    return Demonstrations(tmp_path_factory.mktemp("good")).write(episodes=2, steps=4).read_bytes()


@fuzzed
@given(data=st.data())
def test_a_damaged_demonstration_file_is_read_or_refused_by_name(data, demonstration, reader, tmp_path) -> None:
    damage = data.draw(damages(len(demonstration)))
    (tmp_path / "x_demo.hdf5").write_bytes(damaged(demonstration, damage))
    told = reader.read(tmp_path)
    assert told in ("read", "died") or told.startswith("refused x_demo.hdf5"), told


@fuzzed
@given(attributes=st.dictionaries(
    st.sampled_from(["problem_info", "num_demos", "macros_image_convention", "num_samples"]),
    st.one_of(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")), st.integers(-2**63, 2**63 - 1),
              st.floats(), st.lists(st.integers(-5, 5), min_size=1), st.booleans(),
              st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(
                  st.just("language_instruction"), inner)).map(json.dumps))))
def test_absurd_attributes_are_read_or_refused_by_name(attributes, reader, tmp_path) -> None:
    def change(data) -> None:
        for name, value in attributes.items():
            (data["demo_0"] if name == "num_samples" else data).attrs[name] = value

    Demonstrations(tmp_path).write("x_demo.hdf5", steps=3, change=change)
    told = reader.read(tmp_path)
    assert told == "read" or told.startswith("refused x_demo.hdf5"), told


# weights ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return torch.load(PARITY / "hub_bin" / "pytorch_model.bin", weights_only=True)


@pytest.fixture(scope="module", params=["model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt"])
def good_weights(request, tensors, tmp_path_factory) -> tuple[str, bytes]:
    path = tmp_path_factory.mktemp("weights") / request.param
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"module": tensors} if path.suffix == ".pt" else tensors, path)
    return path.name, path.read_bytes()


def load_or_refuse(folder: Path) -> None:
    refusal = ""
    try:
        policy = RDTPolicy.from_pretrained(folder)
    except WeightsError as error:
        refusal = error.message
    if refusal:
        assert str(folder) in refusal or "config.json" in refusal
    else:
        assert {p.dtype for p in policy.parameters()} == {torch.float32}


@fuzzed
@given(data=st.data())
def test_damaged_weights_are_loaded_or_refused_by_name(data, good_weights, tmp_path) -> None:
    name, content = good_weights
    head = data.draw(st.booleans())  # most of a file is numbers; what steers the readers lies at its ends
    damage = data.draw(damages(min(len(content), 20_000)))
    if not head:
        damage = [(kind, len(content) - 1 - place, what) for kind, place, what in damage]
    shutil.copy(PARITY / "hub_bin" / "config.json", tmp_path / "config.json")
    (tmp_path / name).write_bytes(damaged(content, damage))
    load_or_refuse(tmp_path)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3))


@fuzzed
@given(data=st.data())
def test_any_value_in_config_json_is_accepted_or_refused(data, tmp_path) -> None:
    config = json.loads((PARITY / "hub_bin" / "config.json").read_text())
    table = data.draw(st.sampled_from([config, config["rdt"], config["noise_scheduler"], config["ema"]]))
    table[data.draw(st.sampled_from(sorted(table)))] = data.draw(JSON)
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(PARITY / "hub_bin" / "pytorch_model.bin", tmp_path)
    load_or_refuse(tmp_path)


@fuzzed
@given(data=st.data())
def test_no_key_of_a_config_is_left_unread(data, tmp_path) -> None:
    """A key that is not known may be of a fork that computes something else."""
    config = json.loads((PARITY / "hub_bin" / "config.json").read_text())
    table = data.draw(st.sampled_from([config, config["rdt"], config["noise_scheduler"]]))
    key = data.draw(st.text(min_size=1, max_size=12).filter(lambda k: not k.startswith("_") and k not in table))
    table[key] = data.draw(JSON)
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(PARITY / "hub_bin" / "pytorch_model.bin", tmp_path)
    with pytest.raises(WeightsError, match=r"has keys that this RDT does not know"):
        RDTPolicy.from_pretrained(tmp_path)


def test_whole_numbers_and_complex_ones_are_no_weights(tensors, tmp_path) -> None:
    shutil.copy(PARITY / "hub_bin" / "config.json", tmp_path)
    for dtype in (torch.int64, torch.complex64):
        save_file({**tensors, "img_adaptor.0.bias": torch.zeros(64, dtype=dtype)}, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=r"1 tensors are not plain floating-point numbers \(img_adaptor"):
            RDTPolicy.from_pretrained(tmp_path)


# checkpoints --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def policy() -> RDTPolicy:
    return RDTPolicy.from_pretrained(PARITY / "hub_bin")


@pytest.fixture(scope="module")
def saved(policy, tmp_path_factory) -> Path:
    """trainer.json, codec.json and optimizer.safetensors of a checkpoint after one step."""
    folder = tmp_path_factory.mktemp("checkpoint")
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_file({f"{part}.{name}": optimizer.state[parameter][part] for name, parameter in policy.named_parameters()
               for part in ("step", "exp_avg", "exp_avg_sq")}, folder / checkpoint.OPTIMIZER)
    trainer = {"step": 1, "loss": 0.5, "config": {}, "ema_updates": 1, "scaler": {}}
    (folder / checkpoint.TRAINER).write_text(json.dumps(trainer))
    (folder / checkpoint.CODEC).write_text(json.dumps({"name": "x", "hash": "y", "golden": {}}))
    manifest.seal(folder)
    return folder


@fuzzed
@given(data=st.data())
def test_a_damaged_checkpoint_is_read_or_refused_by_name(data, saved, policy, tmp_path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "step_000001", dirs_exist_ok=True))
    name = data.draw(st.sampled_from([checkpoint.TRAINER, checkpoint.CODEC, checkpoint.OPTIMIZER]))
    content = (saved / name).read_bytes()
    (folder / name).write_bytes(damaged(content, data.draw(damages(min(len(content), 20_000)))))
    refusal = name
    try:
        checkpoint.read_trainer(folder)
        checkpoint.read_codec(folder)
        checkpoint.restore_optimizer(folder, policy, torch.optim.AdamW(policy.parameters()), ALONE)
    except WeightsError as error:
        refusal = error.message
    assert name in refusal


@fuzzed
@given(data=st.data())
def test_a_damaged_checkpoint_is_never_the_newest_intact_one(data, saved, tmp_path) -> None:
    folder = tmp_path / "step_000001"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    name = data.draw(st.sampled_from(sorted(p.name for p in saved.iterdir())))
    content = (saved / name).read_bytes()
    changed = damaged(content, data.draw(damages(min(len(content), 20_000))))
    (folder / name).write_bytes(changed)
    found = checkpoint.newest_intact(tmp_path, lambda _: None)
    if name != manifest.NAME:
        assert (found is not None) == (changed == content)


@fuzzed
@given(value=JSON, rows=st.lists(st.fixed_dictionaries({"path": JSON, "size_bytes": JSON, "md5": JSON}), max_size=2))
def test_any_manifest_is_accepted_or_a_value_error(value, rows) -> None:
    for table in (value, {"files": value, "digest": value}, {"files": rows, "digest": value}):
        try:
            manifest.Manifest.from_json(json.dumps(table))
        except ValueError:
            continue


def test_a_moment_that_is_no_number_is_named(saved, policy, tmp_path) -> None:
    from safetensors.torch import load_file

    moments = load_file(saved / checkpoint.OPTIMIZER)
    moments["exp_avg_sq.img_adaptor.0.bias"][3] = float("nan")
    folder = Path(shutil.copytree(saved, tmp_path / "step_000001"))
    save_file(moments, folder / checkpoint.OPTIMIZER)
    with pytest.raises(WeightsError, match=r"NaN or infinite numbers \(exp_avg_sq\.img_adaptor\.0\.bias: 1 of 64\)"):
        checkpoint.restore_optimizer(folder, policy, torch.optim.AdamW(policy.parameters()), ALONE)


@pytest.mark.parametrize(("part", "shape"), [("exp_avg", (3,)), ("step", (2,))])
def test_a_misshapen_moment_is_named(saved, policy, tmp_path, part, shape) -> None:
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(saved, tmp_path / "step_000001"))
    moments = load_file(folder / checkpoint.OPTIMIZER)
    moments[f"{part}.img_adaptor.0.bias"] = torch.zeros(shape)
    save_file(moments, folder / checkpoint.OPTIMIZER)
    with pytest.raises(WeightsError, match=rf"{part}.img_adaptor.0.bias is \({shape[0]},\), its parameter \(64,\)"):
        checkpoint.restore_optimizer(folder, policy, torch.optim.AdamW(policy.parameters()), ALONE)
