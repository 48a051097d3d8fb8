"""Encoder folders: check that T5 or SigLIP lies in a folder, whole, and as RDT was trained with it. What no shape of a
tensor shows (a tokenizer that knows no words, another activation) would train without an error, on other embeddings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rdtops.errors import WeightsError
from rdtops.hostlib import fields, files, tensor_headers, weight_files
from rdtops.trainer import libraries
from rdtops.trainer.model import weights

DEPLOY = "inv deploy --only encoders"
ANEW = f"hf download REPOSITORY   # here, anew; then {DEPLOY}"  # what was sent is wrong: sending it again is no help
TEXT_ENCODERS = ("t5",)  # model_type of config.json
# Values of the two encoders that RDT was trained with which no shape shows, by the width that config.json names; of an
# encoder of another width nothing is known. The names are those of transformers' configurations.
_AS_PUBLISHED: Mapping[str, tuple[str, int, Mapping[str, Any]]] = {
    "T5": ("d_model", 4096, {
        "num_heads": 64, "d_kv": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new",
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}),
    "SigLIP": ("hidden_size", 1152, {
        "num_attention_heads": 16, "num_hidden_layers": 27, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6})}
# of SigLIP's preprocessor_config.json: what the training does to an image
_PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
_LAYERS = (".block.", ".layers.")
# two sentences, and the numbers of the first in the vocabulary of every published T5 (its documentation prints them)
SENTENCES = ("translate English to German: The house is wonderful.", "put the black bowl in the top drawer")
_T5_VOCABULARY, _T5_IDS = 32128, [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]
_MOST_UNKNOWN = 0.2  # of the tokens of a sentence


def home(folder: Path, what: str) -> Path:
    """Return the folder that holds an encoder: `folder`, or the one that it leads to. Raise WeightsError where its
    config.json is missing, or a text encoder has no tokenizer."""
    place = Path(weights.home(folder))
    if not (place / weights.CONFIG).is_file():
        raise WeightsError(f"{folder} holds no {what} encoder: {weights.CONFIG} is missing", remedy=DEPLOY)
    if what == "T5":
        _check_tokenizer_files(place)
    return place


def check_files(folder: Path) -> None:
    """Check the weight files by their headers. Raise WeightsError, with the file: transformers would not say which part
    is a Git LFS pointer or cut off."""
    try:
        found = weight_files.found(str(folder), weight_files.OF_TRANSFORMERS)
        headers = tensor_headers.of(found)
    except weight_files.UnreadableWeights as error:
        raise _deployed(error) from None
    odd = [f"{name}: {header.type}" for name, header in headers.items()
           if header.type not in tensor_headers.FLOATS and not name.endswith("position_ids")]
    if odd:
        raise WeightsError(f"{found.path(found.name)}: {len(odd)} tensors are not plain floating-point numbers "
                           f"({odd[0]} first)", remedy=f"{DEPLOY}   # weights in 16 or 32 bit")
    if found.parts[0].endswith(".bin") and not libraries.reads_pickled():
        raise WeightsError(f"{found.path(found.name)}: this transformers reads .bin files with torch 2.6 or newer only",
                           remedy=tensor_headers.converted(found.path(found.parts[0])) if len(found.parts) == 1 else
                           "inv deploy --env   # with requirements = [\"torch==2.6.0\"] in hosts.toml")


def check_config(config: Any, folder: Path, what: str) -> None:
    """Check a configuration as transformers has read it, defaults and all: in itself, and against the published encoder
    of its width. Raise WeightsError."""
    if what == "T5":
        _check_activation(config, folder)
    key, width, wanted = _AS_PUBLISHED[what]
    if getattr(config, key, None) != width:
        return
    wrong = [f"{name} is {getattr(config, name, None)!r}, RDT's {what} has {value!r}" for name, value in wanted.items()
             if getattr(config, name, None) != value]
    if wrong:
        raise WeightsError(f"{folder / weights.CONFIG}: {'; '.join(wrong)}",
                           remedy=ANEW)


def _check_activation(config: Any, folder: Path) -> None:
    """Check that the three names of T5's activation say one thing; newer versions of transformers write them all."""
    gate, _, name = str(config.feed_forward_proj).rpartition("-")
    wanted = "gelu_new" if (gate, name) == ("gated", "gelu") else name, gate == "gated"
    if (config.dense_act_fn, config.is_gated_act) != wanted:
        rest = f"dense_act_fn {config.dense_act_fn!r} and is_gated_act {config.is_gated_act}"
        raise WeightsError(f"{folder / weights.CONFIG}: feed_forward_proj is {config.feed_forward_proj!r}, but {rest}",
                           remedy=ANEW)


def check_pixels(folder: Path) -> None:
    """Check that SigLIP's images are prepared as the training does it. Raise WeightsError."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    try:
        told = fields.table(fields.loads(files.head_of(path)))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not JSON: {error}", remedy=ANEW) from error
    wrong = [f"{name} is {told[name]}, of SigLIP {value}" for name, value in _PIXELS.items()
             if name in told and not _near(told[name], value)]
    if wrong:
        raise WeightsError(f"{path} is of another encoder: {'; '.join(wrong)}", remedy=ANEW)


def check_report(report: Mapping[str, Any], folder: Path, name: str) -> None:
    """Check what transformers says of the tensors: it would fill missing ones with random numbers, and leave out layers
    that config.json does not count. Raise WeightsError."""
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:
        raise WeightsError(f"{name}: the weights in {folder} lack {len(lacking)} tensors, {lacking[0]} first",
                           remedy=ANEW)
    more = sorted(key for key in report["unexpected_keys"] if any(part in f".{key}" for part in _LAYERS)
                  and not key.startswith(("decoder.", "text_model.")))
    if more:
        raise WeightsError(f"{name}: the weights in {folder} have {len(more)} tensors more than {weights.CONFIG} "
                           f"counts, {more[0]} first: files of two models", remedy=ANEW)


def check_tokenizer(tokenizer: Any, config: Any, folder: Path) -> None:
    """Check that a tokenizer tells sentences apart, in the vocabulary of the encoder, as T5 was trained: encode two
    known ones. Raise WeightsError."""
    first, second = (ids(tokenizer, text, folder) or [-1] for text in SENTENCES)
    unknown = tokenizer.unk_token_id
    few = min(sum(number != unknown for number in ids) / max(len(ids), 1) for ids in (first, second))
    eos = getattr(config, "eos_token_id", None)
    fault = ""
    if first == second or len(set(first)) < 4 or few < 1 - _MOST_UNKNOWN:
        fault = "it does not know the words of a sentence"
    elif max(*first, *second) >= config.vocab_size or len(tokenizer) > config.vocab_size:
        fault = (f"it has {len(tokenizer)} tokens, up to {max(*first, *second)} in a sentence, and the encoder "
                 f"{config.vocab_size}")
    elif {first[-1], second[-1]} != {eos}:
        fault = f"it does not end a sentence with the encoder's eos_token_id, {eos}"
    elif config.vocab_size == _T5_VOCABULARY and first != _T5_IDS:
        fault = f"it is not that of the published T5: {SENTENCES[0]!r} is {first[:6]}..., not {_T5_IDS[:6]}..."
    if fault:
        raise WeightsError(f"the tokenizer in {folder} is not that of its T5: {fault}",
                           remedy=f"hf download google/t5-v1_1-xxl spiece.model tokenizer_config.json "
                                  f"special_tokens_map.json   # then {DEPLOY}")


def ids(tokenizer: Any, text: str, folder: Path) -> list[int]:
    """Return the numbers of a text's tokens. Raise WeightsError."""
    with refused(f"the tokenizer in {folder} cannot encode {text!r}"):
        return [int(number) for number in tokenizer(text).input_ids]


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Raise any error of a library as WeightsError, after the words of `what`: a config.json or tokenizer.json may hold
    anything. tokenizers is written in Rust, whose panics are no Exception."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        plain = isinstance(error, (OSError, ValueError, RuntimeError)) and str(error)
        raise WeightsError(f"{what}: {error if plain else f'{type(error).__name__}: {error}'}",
                           remedy=ANEW) from error


def check_finite(model: Any, folder: Path) -> None:
    """Raise WeightsError where a weight of an encoder is NaN or infinite."""
    broken = [name for name, tensor in model.named_parameters() if not weights.is_finite(tensor)]
    if broken:
        raise WeightsError(f"{folder}: {len(broken)} tensors of the encoder hold NaN or infinite numbers, {broken[0]} "
                           "first", remedy=ANEW)


def _check_tokenizer_files(folder: Path) -> None:
    there = [name for name in weight_files.TOKENIZERS if os.path.lexists(folder / name)]
    if not there:
        raise WeightsError(f"{folder} has no tokenizer: neither {' nor '.join(weight_files.TOKENIZERS)}",
                           remedy=f"hf download google/t5-v1_1-xxl spiece.model   # then {DEPLOY}")
    try:
        for name in there:
            weight_files.check_kind(str(folder / name))
    except weight_files.UnreadableWeights as error:
        raise _deployed(error) from None


def _deployed(error: weight_files.UnreadableWeights) -> WeightsError:
    return WeightsError(str(error), remedy=error.remedy.replace("inv deploy", DEPLOY))


def _near(found: object, wanted: object) -> bool:
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_near, found, wanted))
    number = fields.number(found)
    return number is not None and isinstance(wanted, float) and abs(number - wanted) < 1e-6
