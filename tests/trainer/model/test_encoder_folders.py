"""Encoder folders as they are passed on: half there, of another model, or with a tokenizer that knows no word."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.t5.configuration_t5 import T5Config
from transformers.utils import import_utils

from rdtops.errors import WeightsError
from rdtops.trainer.model import encoder_folders
from rdtops.trainer.model.encoder_folders import SENTENCES
from rdtops.trainer.model.encoders import Vision, encode_instructions

CPU = torch.device("cpu")
TEXTS = ("close the top drawer of the cabinet", "open the top drawer of the cabinet")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 791656\n".format("0" * 64)


@pytest.fixture
def t5(assets, tmp_path) -> Path:
    return Path(shutil.copytree(assets["text_encoder"], tmp_path / "t5"))


@pytest.fixture
def siglip(assets, tmp_path) -> Path:
    return Path(shutil.copytree(assets["vision_encoder"], tmp_path / "siglip"))


def encoded(folder: Path) -> dict[str, torch.Tensor]:
    return encode_instructions(folder, TEXTS, folder.parent / "cache", CPU)


def refused(folder: Path) -> WeightsError:
    load = encoded if "t5" in folder.name else lambda path: Vision(path, CPU, torch.float32)
    with pytest.raises(WeightsError) as caught:
        load(folder)
    assert str(folder) in caught.value.message
    assert caught.value.remedy
    return caught.value


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def tokenizer(folder: Path, vocabulary: dict[str, int], *, ends: bool = True) -> PreTrainedTokenizerFast:
    """Write and return a tokenizer of whole words."""
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        words.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")
    made.save_pretrained(folder)
    return made


WORDS = " ".join([*SENTENCES, *TEXTS]).replace(".", " .").replace(":", " :").split()
SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}
KNOWN = {**SPECIAL, **{word: number + 3 for number, word in enumerate(sorted(set(WORDS)))}}


# --- tokenizers ---

def test_a_folder_without_a_tokenizer_is_refused_also_where_the_cache_is_warm(t5) -> None:
    encoded(t5)
    (t5 / "tokenizer.json").unlink()
    error = refused(t5)
    assert "has no tokenizer: neither tokenizer.json nor spiece.model" in error.message
    assert error.remedy.startswith("hf download google/t5-v1_1-xxl spiece.model")


def test_a_tokenizer_of_its_own_words_is_taken(t5) -> None:
    tokenizer(t5, KNOWN)
    assert len(encoded(t5)[TEXTS[0]]) == 8  # seven words and the end


@pytest.mark.parametrize(("vocabulary", "ends", "says"), [
    (SPECIAL, True, "it does not know the words of a sentence"),
    ({**SPECIAL, "the": 3, "is": 4}, True, "it does not know the words of a sentence"),
    (KNOWN, False, "it does not end a sentence with the encoder's eos_token_id, 1"),
    ({**KNOWN, "</s>": 2, "<unk>": 1}, True, "it does not end a sentence with the encoder's eos_token_id, 1"),
    ({**KNOWN, "house": 9000}, True, "up to 9000 in a sentence, and the encoder 258"),
    ({**KNOWN, **{f"word{n}": 100 + n for n in range(300)}}, True, "and the encoder 258")])
def test_a_tokenizer_of_another_model_is_refused(t5, vocabulary, ends, says) -> None:
    tokenizer(t5, vocabulary, ends=ends)
    error = refused(t5)
    assert f"the tokenizer in {t5} is not that of its T5: " in error.message
    assert says in error.message


def test_in_the_vocabulary_of_the_published_t5_its_own_numbers_are_wanted(tmp_path) -> None:
    numbers = [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5]
    words = dict(zip(SENTENCES[0].replace(":", " :").replace(".", " .").split(), numbers, strict=True))
    rest = {word: 20_000 + number for number, word in enumerate(SENTENCES[1].split())}
    config = T5Config(vocab_size=32128)
    right = tokenizer(tmp_path, {**SPECIAL, **rest, **words})
    encoder_folders.check_tokenizer(right, config, tmp_path)
    other = tokenizer(tmp_path, {**SPECIAL, **rest, **words, "house": 630})
    with pytest.raises(WeightsError, match="it is not that of the published T5"):
        encoder_folders.check_tokenizer(other, config, tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": {"type": "BPE"}}', POINTER, "", "<!doctype html><html>"])
def test_a_broken_tokenizer_is_refused(t5, content) -> None:
    (t5 / "tokenizer.json").write_text(content)
    message = refused(t5).message
    if content == POINTER:
        assert f"{t5 / 'tokenizer.json'} is a Git LFS pointer of a 792 kB file" in message


def test_a_model_of_sentencepiece_is_read_and_half_of_one_refused(t5, tmp_path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join([*SENTENCES, *TEXTS] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "lines.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=43, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=9)
    (t5 / "tokenizer.json").unlink()
    (t5 / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    whole = (tmp_path / "spiece.model").read_bytes()
    (t5 / "spiece.model").write_bytes(whole)
    assert {len(tokens) > 5 for text, tokens in encoded(t5).items() if text} == {True}
    for content in (whole[:len(whole) // 2], POINTER.encode(), b""):
        (t5 / "spiece.model").write_bytes(content)
        refused(t5)


# --- what lies in the folder ---

@pytest.mark.parametrize(("values", "says"), [
    ({"model_type": "mt5"}, "no known text encoder: its model_type is 'mt5', known are t5"),
    ({"model_type": "umt5"}, "model_type is 'umt5'"),
    ({"model_type": "clip"}, "model_type is 'clip'"),
    ({"num_layers": 1}, "more than config.json counts, encoder.block.1."),
    ({"num_layers": 3}, "lack 9 tensors, encoder.block.2."),
    ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu', but dense_act_fn 'gelu_new' and is_gated_act True"),
    ({"feed_forward_proj": "relu", "dense_act_fn": "relu", "is_gated_act": False}, "lack 2 tensors"),
    ({"feed_forward_proj": "gated-nonsense", "dense_act_fn": "nonsense"}, "cannot be loaded from"),
    ({"d_model": 16}, "cannot be loaded from"),
    ({"num_heads": None}, "cannot be loaded from")])
def test_a_text_encoder_of_another_config_is_refused(t5, values, says) -> None:
    change(t5, **values)
    message = refused(t5).message
    assert says in message or (says == "cannot be loaded from" and "lack" in message), message


@pytest.mark.parametrize(("values", "says"), [
    ({"model_type": "siglip2_vision_model"}, "model_type is 'siglip2_vision_model'"),
    ({"model_type": "clip_vision_model"}, "model_type is 'clip_vision_model'"),
    ({"num_hidden_layers": 1}, "more than config.json counts"),
    ({"hidden_act": "nonsense"}, "cannot be loaded from"),
    ({"patch_size": 0}, "cannot be loaded from"),
    ({"num_attention_heads": 5}, "cannot be loaded from")])
def test_a_vision_encoder_of_another_config_is_refused(siglip, values, says) -> None:
    change(siglip, **values)
    assert says in refused(siglip).message


@pytest.mark.parametrize(("config", "what", "says"), [
    (T5Config(d_model=4096, num_heads=32, d_kv=128, num_layers=24, feed_forward_proj="gated-gelu"), "T5",
     "num_heads is 32, RDT's T5 has 64; d_kv is 128"),
    (T5Config(d_model=4096, num_heads=64, d_kv=64, num_layers=24, feed_forward_proj="gated-silu"), "T5",
     "feed_forward_proj is 'gated-silu'"),
    (SiglipVisionConfig(hidden_size=1152, num_hidden_layers=27), "SigLIP", "num_attention_heads is 12"),
    (SiglipVisionConfig(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, hidden_act="gelu"), "SigLIP",
     "hidden_act is 'gelu', RDT's SigLIP has 'gelu_pytorch_tanh'"),
    (SiglipVisionConfig(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, layer_norm_eps=1e-5), "SigLIP",
     "layer_norm_eps is 1e-05")])
def test_what_no_shape_shows_is_compared_with_the_published_encoders(tmp_path, config, what, says) -> None:
    with pytest.raises(WeightsError) as caught:
        encoder_folders.check_config(config, tmp_path, what)
    assert says in caught.value.message


def test_the_published_configurations_are_right(tmp_path) -> None:
    """What google/t5-v1_1-xxl and google/siglip-so400m-patch14-384 have in config.json; the rest are defaults."""
    t5 = T5Config(d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, vocab_size=32128,
                  feed_forward_proj="gated-gelu")
    encoder_folders.check_config(t5, tmp_path, "T5")
    siglip = SiglipVisionConfig(hidden_size=1152, image_size=384, intermediate_size=4304, patch_size=14,
                                num_attention_heads=16, num_hidden_layers=27)
    encoder_folders.check_config(siglip, tmp_path, "SigLIP")


def test_images_that_another_encoder_prepares_otherwise_are_refused(siglip) -> None:
    path = siglip / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}))
    Vision(siglip, CPU, torch.float32)
    path.write_text(json.dumps({"image_mean": [0.48145466, 0.4578275, 0.40821073]}))
    assert "is of another encoder: image_mean is [0.48145466" in refused(siglip).message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pointer_in_place_of_any_file_is_named(t5, name) -> None:
    (t5 / name).write_text(POINTER)
    error = refused(t5)
    assert f"{t5 / name} is " in error.message
    assert "a Git LFS pointer of a 792 kB file" in error.message
    assert "git lfs pull" in error.remedy


def parts_of(folder: Path, suffix: str) -> None:
    """Write the weights in two parts, as t5-v1_1-xxl is passed on."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names, places = sorted(tensors), {}
    for number in (1, 2):
        part, held = f"{stem}-0000{number}-of-00002{suffix}", {name: tensors[name] for name in names[number - 1::2]}
        if suffix == ".safetensors":
            save_file(held, folder / part, {"format": "pt"})
        else:
            torch.save(held, folder / part)
        places |= dict.fromkeys(held, part)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(
        {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": places}))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_encoder_in_parts_is_read_and_a_missing_part_named(t5, siglip, suffix) -> None:
    whole, grey = encoded(t5), Vision(siglip, CPU, torch.float32).background_PW
    shutil.rmtree(t5.parent / "cache")
    parts_of(t5, suffix)
    parts_of(siglip, suffix)
    torch.testing.assert_close(encoded(t5), whole)
    torch.testing.assert_close(Vision(siglip, CPU, torch.float32).background_PW, grey)
    shutil.rmtree(t5.parent / "cache")
    for folder in (t5, siglip):
        next(folder.glob(f"*-00002-of-00002{suffix}")).unlink()
        assert "1 of 2 parts" in refused(folder).message


def test_a_t5_with_its_decoder_gives_its_encoder_and_a_decoder_alone_is_refused(t5) -> None:
    whole = encoded(t5)
    shutil.rmtree(t5.parent / "cache")
    tensors = load_file(t5 / "model.safetensors")
    decoder = {name.replace("encoder.", "decoder."): tensor.clone() for name, tensor in tensors.items()
               if name.startswith("encoder.")}
    both = {**tensors, **decoder, "lm_head.weight": torch.zeros(258, 32)}
    save_file(both, t5 / "model.safetensors", {"format": "pt"})
    torch.testing.assert_close(encoded(t5), whole)
    shutil.rmtree(t5.parent / "cache")
    save_file({**decoder, "shared.weight": tensors["shared.weight"]}, t5 / "model.safetensors", {"format": "pt"})
    assert "lack 20 tensors" in refused(t5).message


@pytest.mark.parametrize(("role", "name"), [("t5", "encoder.block.1.layer.0.SelfAttention.q.weight"),
                                            ("siglip", "encoder.layers.1.mlp.fc2.bias")])
def test_numbers_that_are_none_are_found_when_an_encoder_is_loaded(role, name, request) -> None:
    folder = request.getfixturevalue(role)
    tensors = load_file(folder / "model.safetensors")
    (found,) = [key for key in tensors if key.endswith(name)]
    tensors[found].view(-1)[3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    message = refused(folder).message
    assert "1 tensors of the encoder hold NaN" in message
    assert name in message


def test_an_old_torch_with_a_new_transformers_is_told(t5, monkeypatch) -> None:
    tensors = load_file(t5 / "model.safetensors")
    (t5 / "model.safetensors").unlink()
    torch.save(tensors, t5 / "pytorch_model.bin")

    def refuse() -> None:
        raise ValueError("upgrade torch to at least v2.6")

    monkeypatch.setattr(import_utils, "check_torch_load_is_safe", refuse, raising=False)
    error = refused(t5)
    assert "reads .bin files with torch 2.6 or newer only" in error.message
    assert "safetensors" in error.remedy


def test_instructions_that_an_earlier_version_encoded_alike_are_refused(t5) -> None:
    encoded(t5)
    first, *_ = sorted((t5.parent / "cache").iterdir())
    for path in (t5.parent / "cache").iterdir():
        if path != first:
            shutil.copy(first, path)
    assert "alike: its tokenizer is not that of its T5" in refused(t5).message


# --- any content ---

JSON = st.recursive(st.none() | st.booleans() | st.integers(-10**6, 10**6) | st.floats() | st.text(max_size=6),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2))
fuzzed = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loads_or_refused(folder: Path, load: Callable[[], object]) -> bool:
    problem = ""
    try:
        load()
    except WeightsError as error:
        problem = error.message
    assert not problem or str(folder) in problem
    return not problem


@fuzzed
@given(data=st.data())
def test_any_value_in_the_config_of_an_encoder_is_taken_or_refused(data, assets, tmp_path) -> None:
    role = data.draw(st.sampled_from(["text_encoder", "vision_encoder"]))
    folder = tmp_path / role
    if not folder.exists():
        shutil.copytree(assets[role], folder)
    shutil.copy(Path(assets[role]) / "config.json", folder)
    table = json.loads((folder / "config.json").read_text())
    key = data.draw(st.sampled_from(sorted(set(table) - {"num_layers", "num_hidden_layers", "num_decoder_layers",
                                                         "image_size", "vocab_size", "d_ff", "intermediate_size"})))
    change(folder, **{key: data.draw(JSON)})
    load = {"text_encoder": lambda: encode_instructions(folder, TEXTS, tmp_path / f"cache{os.urandom(4).hex()}", CPU),
            "vision_encoder": lambda: Vision(folder, CPU, torch.float32)}[role]
    loads_or_refused(folder, load)


@fuzzed
@given(data=st.data())
def test_any_value_in_a_tokenizer_is_taken_as_it_was_or_refused(data, assets, tmp_path) -> None:
    """No two sentences become alike, whatever is in the file."""
    folder = tmp_path / "t5"
    if not folder.exists():
        shutil.copytree(assets["text_encoder"], folder)
    table = json.loads((Path(assets["text_encoder"]) / "tokenizer.json").read_text())
    place = data.draw(st.sampled_from([table, table["model"], table["post_processor"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    (folder / "tokenizer.json").write_text(json.dumps(table))
    cache = tmp_path / f"cache{os.urandom(4).hex()}"
    if loads_or_refused(folder, lambda: encode_instructions(folder, TEXTS, cache, CPU)):
        found = encode_instructions(folder, TEXTS, cache, CPU)
        assert not torch.equal(found[TEXTS[0]], found[TEXTS[1]])
