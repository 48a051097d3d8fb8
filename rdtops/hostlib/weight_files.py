"""Weight files: which files of a folder hold a model's tensors, whole or in parts, and what a folder without such files
holds instead. One list for check, plugins and training. Standard library, Python 3.8: sent with host programs.

    model.safetensors, pytorch_model.bin        every tensor
    model.safetensors.index.json                the part in which each tensor is: model-00001-of-00002.safetensors
    mp_rank_00_model_states.pt                  of a DeepSpeed training, below the key `module`
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from rdtops.hostlib import fields, files, hub_cache
from rdtops.hostlib.file_kinds import kind_of

CONFIG = "config.json"
INDEX = ".index.json"  # of weights in parts
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
DEEPSPEED = "mp_rank_00_model_states.pt"
# in the order in which transformers tries them
OF_TRANSFORMERS = (SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX)
# in this order; then those of diffusers, of accelerate's FSDP with FULL_STATE_DICT, and of DeepSpeed
NAMES = (*OF_TRANSFORMERS, "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors" + INDEX,
         "diffusion_pytorch_model.bin", "pytorch_model_fsdp.bin", DEEPSPEED, f"pytorch_model/{DEEPSPEED}")
TOKENIZERS = ("tokenizer.json", "spiece.model")  # of T5: one of them
ANEW = "inv deploy   # if `inv check` says that its MD5 is not that of your copy; else download it anew"
_COMING = (*hub_cache.BEGUN, ".part", ".crdownload", ".tmp", ".download")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.(?:safetensors|bin)$")
# what a file may be by its first bytes; the reader says more of one that is not known
_KINDS = {".safetensors": ("a safetensors file",), ".json": ("a JSON text",), ".model": ()}
_OF_TORCH = ("a zip archive", "a pickle")


class UnreadableWeights(ValueError):
    """Why the tensors of a folder or file cannot be read, and the next command."""

    def __init__(self, problem: str, remedy: str = ANEW) -> None:
        super().__init__(problem)
        self.remedy = remedy


class WeightFiles(NamedTuple):
    """The files with the tensors of a folder."""

    folder: str
    name: str  # of NAMES: the file, or the index of its parts
    parts: tuple[str, ...]  # paths below the folder; more than one with an index only
    places: dict[str, str]  # tensor -> its part, as the index says; {} of one file
    tensor_bytes: int | None  # as the index says

    def path(self, part: str) -> str:
        return os.path.join(self.folder, part)


def home(folder: str) -> str:
    """Return the folder of config.json and weights: `folder`; of a repository in the hub's cache its snapshot; of a
    folder without either the only folder in it that has both, as an archive or `git clone` leaves it."""
    try:
        snapshot = hub_cache.snapshot(folder)
    except ValueError as error:
        raise UnreadableWeights(str(error), "edit hosts.toml: name the snapshot, .../snapshots/REVISION") from None
    if snapshot:
        return snapshot.folder
    if _has(folder, CONFIG) or _first(folder, NAMES) or not os.path.isdir(folder):
        return folder
    whole = [path for path in _folders(folder) if _has(path, CONFIG) and _first(path, NAMES)]
    return whole[0] if len(whole) == 1 else folder


def found(folder: str, names: tuple[str, ...] = NAMES) -> WeightFiles:
    """Return the weight files of a folder. Raise UnreadableWeights where there are none, where one is missing, still
    coming, or not what its name says."""
    name = _first(folder, names)
    if not name:
        raise UnreadableWeights(*_instead(folder, names))
    _check_ranks(folder, name)
    _check_whole(folder, name)
    if not name.endswith(INDEX):
        check_kind(os.path.join(folder, name))
        return WeightFiles(folder, name, (name,), {}, None)
    check_kind(os.path.join(folder, name))
    places, tensor_bytes = _index(os.path.join(folder, name))
    parts = tuple(sorted(set(places.values())))
    missing = [part for part in parts if not _has(folder, part) and not os.path.islink(os.path.join(folder, part))]
    if missing:
        coming = [path for part in missing for path in _coming(folder, part)]
        raise UnreadableWeights(f"{folder}: {len(missing)} of {len(parts)} parts that {name} names are missing: "
                                f"{', '.join(missing[:3])}" + (f"; {coming[0]} is still coming" if coming else ""))
    for part in parts:
        _check_whole(folder, part)
        check_kind(os.path.join(folder, part))
    return WeightFiles(folder, name, parts, places, tensor_bytes)


def _check_whole(folder: str, name: str) -> None:
    """Refuse a file that is still coming: aria2 gives it its whole size at once."""
    begun = [name + suffix for suffix in hub_cache.BEGUN if os.path.lexists(os.path.join(folder, name + suffix))]
    if begun:
        raise UnreadableWeights(f"{folder}: {name} is still coming, or its download was interrupted: {begun[0]} is "
                                "beside it", "hf download REPOSITORY   # resumes it")


def check_kind(path: str) -> None:
    """Raise UnreadableWeights for a file that holds something else than its name says: a Git LFS pointer, a web page, a
    link to nothing."""
    kind = kind_of(path)
    if kind and kind not in _KINDS.get(os.path.splitext(path)[1], _OF_TORCH):
        raise UnreadableWeights(f"{path} is {kind}", remedy(path, kind))


def remedy(path: str, kind: str) -> str:
    """Return the next command for a file of such a kind."""
    if kind.startswith("a Git LFS"):
        return f"git lfs pull   # in the clone that {os.path.basename(path)} comes from; then inv deploy"
    if kind.startswith("a git-annex"):
        return f"git annex get {os.path.basename(path)}   # in your clone; then inv deploy"
    if kind.startswith(("a Xet", "a web page", "an XML", "a JSON", "a text")):
        return f"hf download REPOSITORY {os.path.basename(path)}   # the file itself; then inv deploy"
    return ANEW


def _first(folder: str, names: tuple[str, ...]) -> str:
    return next((name for name in names if os.path.lexists(os.path.join(folder, name))
                 and not os.path.isdir(os.path.join(folder, name))), "")


def _has(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def _folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and not hub_cache.is_litter(entry.name))


def _index(path: str) -> tuple[dict[str, str], int | None]:
    """Read an index: the part of each tensor, and the bytes of all."""
    try:
        table = fields.table(fields.loads(files.head_of(path, files.TABLE_BYTES)))
    except (OSError, ValueError) as error:
        raise UnreadableWeights(f"{path} cannot be read: {error}") from None
    places = fields.table(table.get("weight_map"))
    odd = [str(part) for part in places.values() if not isinstance(part, str) or os.path.basename(part) != part
           or part in ("", ".", "..")]
    if not places or odd:
        raise UnreadableWeights(f"{path} names no parts" if not places else f"{path} names {odd[0][:100]!r} as a part")
    return places, fields.whole(fields.table(table.get("metadata")).get("total_size"))


def _check_ranks(folder: str, name: str) -> None:
    """Refuse the file of one rank of a DeepSpeed training whose weights are split over several."""
    place = os.path.join(folder, os.path.dirname(name))
    if os.path.basename(name) == DEEPSPEED and _has(place, DEEPSPEED.replace("_00_", "_01_")):
        raise UnreadableWeights(f"{place} holds the states of several model-parallel ranks of DeepSpeed, each with a "
                                "part of the weights", _to_fp32(folder))


def _instead(folder: str, names: tuple[str, ...]) -> tuple[str, str]:
    """Return what a folder without weight files holds, and the way from there to weights."""
    if not os.path.isdir(folder):
        return f"{folder} is not a folder", "inv deploy"
    return next(_known(folder, names), (f"{folder} has no weights: none of {_listed(names)}, whole or in parts",
                                         "inv deploy"))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(name for name in names if not name.endswith(INDEX))


def _known(folder: str, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    coming = [path for name in names for path in _coming(folder, name)]
    if coming:
        yield (f"{folder}: {coming[0]} is still coming, or its download was interrupted",
               "hf download REPOSITORY   # resumes it")
    parts = sorted(name for name in os.listdir(folder) if _PART.search(name))
    if parts:
        yield (f"{folder} has parts of weights, {parts[0]} first, but no {SAFETENSORS}{INDEX} to say what they hold",
               f"hf download REPOSITORY {SAFETENSORS}{INDEX}   # of the same revision; then inv deploy")
    zero3 = _within(folder, "zero_pp_rank_*_model_states.pt")
    if zero3:
        yield (f"{folder} is a checkpoint of DeepSpeed ZeRO-3: its weights are split over {len(zero3)} ranks",
               _to_fp32(folder))
    tagged = _within(folder, DEEPSPEED)
    if tagged:
        at = os.path.dirname(tagged[-1])
        yield (f"{folder} is a folder of DeepSpeed's checkpoints",
               f"edit hosts.toml: {at}, with {CONFIG} in it, as the weights")
    sharded = _within(folder, "*.distcp")
    if sharded:
        at = os.path.dirname(sharded[0])
        yield (f"{folder} is a sharded checkpoint of FSDP (torch.distributed.checkpoint)",
               f"accelerate merge-weights {at} {folder}   # where accelerate is; then inv deploy")
    for name in names:
        if os.path.isdir(os.path.join(folder, name)):
            yield f"{folder}: {name} is a folder, not a file", f"ls -l {os.path.join(folder, name)}   # what it holds"
    for path in _folders(folder):
        if _first(path, names):
            yield (f"{folder} has no weights of its own, but {os.path.basename(path)}/ in it has",
                   f"edit hosts.toml: {path} as the weights")
    yield from _others(folder)


def _others(folder: str) -> Iterator[tuple[str, str]]:
    """Yield what a folder holds in formats that are not read."""
    if _has(folder, "adapter_model.safetensors") or _has(folder, "adapter_model.bin"):
        yield (f"{folder} is a LoRA adapter, not a model",
               "merge it into its base: peft's merge_and_unload(), save_pretrained()")
    for name, what in (("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax"), ("model.onnx", "ONNX")):
        if _has(folder, name):
            yield f"{folder} has weights of {what} ({name}) only", f"hf download REPOSITORY {SAFETENSORS}"
    likely = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1] in _SUFFIXES
                    and not re.match(r"optimizer|scheduler|random_states|training_args|rng_state|scaler", name))
    if len(likely) == 1:
        wanted = SAFETENSORS if likely[0].endswith(".safetensors") else PICKLED
        yield (f"{folder} has no {wanted}, but {likely[0]}",
               f"mv {likely[0]} {wanted}   # in {folder}, if those are the weights")


def _within(folder: str, pattern: str) -> list[str]:
    """Return the paths that match, in the folder and two levels below it."""
    top = glob.escape(folder)
    return sorted(path for level in ("", "*/", "*/*/") for path in glob.glob(f"{top}/{level}{pattern}"))


def _to_fp32(folder: str) -> str:
    """Return the line that joins the parts of a DeepSpeed checkpoint, with the program that DeepSpeed puts beside."""
    beside = [at for at in (folder, os.path.dirname(os.path.abspath(folder))) if _has(at, "zero_to_fp32.py")]
    at = beside[0] if beside else folder
    return f"cd {at} && python zero_to_fp32.py . {PICKLED}   # where torch and DeepSpeed are; then inv deploy"


def _coming(folder: str, name: str) -> list[str]:
    return [name + suffix for suffix in _COMING if os.path.lexists(os.path.join(folder, name + suffix))]
