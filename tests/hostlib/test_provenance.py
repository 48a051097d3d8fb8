"""What is an asset is known by its content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.hostlib import provenance
from rdtops.hostlib.provenance import Provenance

TENSORS, ZIP = "\2" + "\0" * 7 + "{}", "PK\3\4"  # a safetensors file without tensors; what torch.save writes
A, B, C = ("a" * 32, "b" * 32, "c" * 32)
CONTENTS = st.dictionaries(st.sampled_from(["a.hdf5", "b.hdf5", "sub/c.hdf5"]), st.sampled_from([A, B]))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def folder(tmp_path: Path, **texts: str) -> str:
    for name, text in texts.items():
        path = tmp_path / "asset" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path / "asset")


@given(CONTENTS, CONTENTS)
def test_identities_are_equal_and_there_is_no_difference_exactly_when_the_files_are_equal(then, now):
    both = Provenance({"dataset": then}), Provenance({"dataset": now})
    assert (both[0].identity("dataset") == both[1].identity("dataset")) == (then == now)
    assert (provenance.differences(*both) == {}) == (then == now)


def test_a_difference_names_files_and_digests():
    then = {"a.hdf5": A, "b.hdf5": B, "c.hdf5": C, "d.hdf5": A, "e.hdf5": A}
    assert provenance.difference(then, {**then, "b.hdf5": C}) == (
        "1 of 5 files differs: b.hdf5 (MD5 bbbbbbbb in training, cccccccc here)")
    assert provenance.difference(then, {"a.hdf5": A, "f.hdf5": A, "g.hdf5": A}) == (
        "4 of 5 files are missing: b.hdf5, c.hdf5, d.hdf5 and 1 more; 2 are new: f.hdf5, g.hdf5")
    assert provenance.difference({"x": A}, {"x": ""}) == ""  # not known, so not compared


def test_what_no_loader_reads_is_no_part_of_an_encoder(tmp_path):
    found = folder(tmp_path, config_DOT_json="{}", model_DOT_safetensors=TENSORS, pytorch_model_DOT_bin=ZIP,
                   tf_model_DOT_h5="w", README_DOT_md="text", _DOT_gitattributes="", tokenizer_DOT_json="{}",
                   spiece_DOT_model="s", other__config_DOT_json="{}")
    assert provenance.files_of("text_encoder", found) == ["config.json", "model.safetensors"]
    assert provenance.files_of("tokenizer", found) == ["spiece.model", "tokenizer.json"]
    Path(found, "model.safetensors").unlink()
    assert provenance.files_of("vision_encoder", found) == ["config.json", "pytorch_model.bin"]
    assert provenance.files_of("vision_encoder", f"{found}/nothing") == []


def test_weights_in_parts_and_of_deepspeed_belong_to_what_a_training_begins_from(tmp_path):
    found = folder(tmp_path, config_DOT_json="{}", pytorch_model__mp_rank_00_model_states_DOT_pt=ZIP,
                   optimizer_DOT_bin=ZIP)
    assert provenance.files_of("pretrained", found) == ["config.json", "pytorch_model/mp_rank_00_model_states.pt"]
    index = json.dumps({"weight_map": {"a": "m-00001-of-00001.safetensors"}})
    found = folder(tmp_path, **{"model_DOT_safetensors.index.json": index, "m-00001-of-00001_DOT_safetensors": TENSORS})
    assert provenance.files_of("pretrained", found) == [
        "config.json", "m-00001-of-00001.safetensors", "model.safetensors.index.json"]


def test_a_repository_of_the_hub_s_cache_is_its_snapshot(tmp_path):
    plain = folder(tmp_path, config_DOT_json="{}", spiece_DOT_model="s")
    cached = tmp_path / "models--google--t5" / "snapshots" / "1234"
    shutil.copytree(plain, cached)
    parts = ("text_encoder", "tokenizer")
    assert Provenance.of(dict.fromkeys(parts, plain)) == Provenance.of(dict.fromkeys(parts, str(cached.parents[1])))


def test_one_bit_in_the_middle_of_a_large_file_is_another_encoder(tmp_path):
    path = Path(folder(tmp_path, config_DOT_json="{}")) / "model.safetensors"
    path.write_bytes(bytes(5 << 20))
    before = Provenance.of({"vision_encoder": str(path.parent)})
    with path.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"\1")
    now = Provenance.of({"vision_encoder": str(path.parent)})
    assert list(provenance.differences(before, now)) == ["vision_encoder"]


def test_with_a_limit_only_small_files_are_read_and_the_rest_is_unknown(tmp_path):
    found = folder(tmp_path, config_DOT_json="{}", model_DOT_safetensors="w" * 100)
    limited = Provenance.of({"vision_encoder": found}, limit_bytes=50).parts["vision_encoder"]
    assert (limited["model.safetensors"], len(limited["config.json"])) == ("", 32)


def test_a_record_is_read_as_it_was_written(tmp_path):
    assert provenance.read(tmp_path) is None
    kept = Provenance({"dataset": {"a b.hdf5": A}, "tokenizer": {"spiece.model": B}})
    provenance.write(tmp_path, kept)
    assert provenance.read(tmp_path) == kept


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"dataset": {"../x": A}}),
                                  json.dumps({"dataset": {"x": "no digest"}}), json.dumps({"dataset": {"\ud800": A}})])
def test_a_broken_record_is_said_to_be_broken(tmp_path, text):
    (tmp_path / provenance.NAME).write_text(text)
    with pytest.raises(ValueError, match=r".+"):
        provenance.read(tmp_path)
