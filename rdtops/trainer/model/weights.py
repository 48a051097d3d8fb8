"""Weights on disk: find them in a directory, read them without running code, load them into a module."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rdtops.contract import tensor_names
from rdtops.errors import WeightsError
from rdtops.hostlib import file_kinds, files, tensor_headers, weight_files
from rdtops.hostlib.fields import loads

log = logging.getLogger(__name__)

CONFIG = weight_files.CONFIG
SAFETENSORS = weight_files.SAFETENSORS
_LISTED = 12  # listed keys per kind of mismatch; the rest is counted


def read_config(directory: str | Path) -> dict[str, Any]:
    path = Path(home(directory)) / CONFIG
    try:
        config = loads(files.head_of(path))
    except FileNotFoundError as error:
        with _told():
            weight_files.check_kind(str(path))  # a link to nothing
        raise WeightsError(f"{directory} has no {CONFIG}", remedy=f"cp PRETRAINED/{CONFIG} {directory}/   # that of "
                           "the weights it was trained from; or inv deploy --only weights") from error
    except (OSError, ValueError) as error:
        kind = file_kinds.kind_of(path)
        raise WeightsError(f"{path} is not JSON: {f'it is {kind}' if kind else error}",
                           remedy=weight_files.remedy(str(path), kind)) from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path} must hold a JSON object", remedy=weight_files.ANEW)
    return config


def home(directory: str | Path) -> str:
    """Return the folder that holds config.json and weights: `directory`, or the one that it leads to. Raise
    WeightsError."""
    with _told():
        return weight_files.home(str(directory))


def read(directory: str | Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return the weight file of a directory, or the index of its parts, and its tensors in float32 on the CPU, every
    number of them finite. Raise WeightsError."""
    with _told():
        found = weight_files.found(weight_files.home(str(directory)))
        headers = tensor_headers.of(found)
    path = Path(found.path(found.name))
    odd = sorted(f"{name}: {header.type}" for name, header in headers.items()
                 if header.type not in tensor_headers.FLOATS)
    if odd:
        raise WeightsError(f"{path}: {len(odd)} tensors are not plain floating-point numbers ({_some(odd)}); weights "
                           f"are read from {', '.join(tensor_headers.FLOATS)}",
                           remedy="inv deploy --only weights   # in one of these types")
    tensors: dict[str, torch.Tensor] = {}
    for part in found.parts:
        source = Path(found.path(part))
        loaded = mapped_tensors(source) if source.suffix == ".safetensors" else _read_torch(source)
        check_finite(loaded, source)
        _check_written(loaded, source)
        tensors.update({name: t.to(torch.float32, copy=True) for name, t in loaded.items()})
    return path, tensors


def check_finite(tensors: Mapping[str, torch.Tensor], source: Path | str) -> None:
    """Raise WeightsError where a number is NaN or infinite, with the tensors."""
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        counts = {name: int((~torch.isfinite(tensors[name])).sum()) for name in broken[:_LISTED]}
        told = ", ".join(f"{name}: {count} of {tensors[name].numel()}" for name, count in counts.items())
        raise WeightsError(f"{source}: {len(broken)} of {len(tensors)} tensors hold NaN or infinite numbers ({told}"
                           f"{', ...' if len(broken) > _LISTED else ''})",
                           remedy="inv checkpoints   # an earlier one, if this is a run's; else other weights")


def _check_written(tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Raise WeightsError where matrices hold zeros alone: a download that gives a file its whole size at once leaves
    them. One may: the last layer of an untrained model."""
    zeros = [name for name, tensor in tensors.items() if tensor.dim() > 1 and not tensor.any()]
    if len(zeros) > 1:
        raise WeightsError(f"{source}: {len(zeros)} of {len(tensors)} tensors hold zeros alone ({_some(zeros)}): a "
                           "hole that an interrupted copy left", remedy=weight_files.ANEW)


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether every number of a tensor is finite. The least and the largest tell, for NaN counts as both: forty
    times faster on a CPU than torch.isfinite of each."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    numbers = tensor.detach().float() if tensor.dtype == torch.float16 else tensor.detach()  # torch 2.1 on a CPU
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(numbers))


def fit(module: nn.Module, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Make `tensors` the parameters of `module`; what a training puts before all names, as DDP and torch.compile do, is
    left out. Raise WeightsError with every missing, unexpected and misshapen key."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    try:
        names = tensor_names.plain(tensors, wanted)
    except tensor_names.TwoModels as error:
        raise WeightsError(f"{source}: {error}", remedy=f"save the one that is meant alone, as {SAFETENSORS}") from None
    tensors = {names[name]: tensor for name, tensor in tensors.items()}
    differs = tensor_names.differences({name: tuple(t.shape) for name, t in tensors.items()}, wanted, _LISTED)
    if differs:
        raise WeightsError(f"{source} does not fit the model of its {CONFIG}: {differs}",
                           remedy="inv train --set model=...   # or the weights of this model")
    module.load_state_dict(tensors, strict=True, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)


def write(directory: str | Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write config.json and model.safetensors. The caller decides when the directory becomes visible."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_tensors(folder / SAFETENSORS, tensors)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors. A full disk raises an OSError with its errno, as with every other file; safetensors itself raises
    its own error, with the number only in its text."""
    try:
        save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in mapped_tensors(path).items()}


def mapped_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in a mapping of the file, at any alignment. Callers must copy: the last bit of a matrix
    product may depend on the alignment of its operands, and a resumed training must not."""
    try:
        os.close(files.opened(path))  # a FIFO would block
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        with _told():
            tensor_headers.table(str(path))  # says what is wrong in words
        raise WeightsError(f"{path} is damaged or incomplete: {error}", remedy=weight_files.ANEW) from error


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that rebuilds tensors, and takes a stand-in for what a training keeps beside them. No name of the file
    is looked up but those of tensor_headers.REBUILDERS and torch's types."""

    def find_class(self, module: str, name: str) -> Any:
        of_torch = module in ("torch", "torch.storage") and (name.endswith("Storage") or isinstance(
            getattr(torch, name, None), torch.dtype))
        if of_torch or (module, name) in tensor_headers.REBUILDERS:
            return super().find_class(module, name)
        return tensor_headers.stand_in(module, name)


# what torch.load takes for `pickle_module`
_RESTRICTED = SimpleNamespace(__name__="restricted", Unpickler=_RestrictedUnpickler,
                              load=lambda file, **options: _RestrictedUnpickler(file, **options).load())


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    """Unpickle tensors only. Beside them harmless objects may stand, which are not made; a file with anything else is
    refused, above all one with code."""
    with _told():
        strangers = tensor_headers.table(str(path)).strangers
    how = {"weights_only": False, "pickle_module": _RESTRICTED} if strangers else {"weights_only": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of unusual opcodes; the file then loads or raises
            content = torch.load(path, map_location="cpu", **how)
        key, tensors = tensor_headers.tensors_of(content, torch.Tensor)
    except Exception as error:  # damaged opcodes may call allowed functions with any arguments
        raise WeightsError(f"{path} is damaged or incomplete: {_first_line(error)}",
                           remedy=weight_files.ANEW) from error
    if key or strangers:
        log.info("%s: %d tensors%s%s", path, len(tensors), f" below {key!r}" if key else "",
                 f"; not made: {', '.join(strangers)}" if strangers else "")
    return tensors


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raise UnreadableWeights as WeightsError."""
    try:
        yield
    except weight_files.UnreadableWeights as error:
        raise WeightsError(str(error), remedy=error.remedy) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _some(keys: list[str]) -> str:
    return tensor_names.some(keys, _LISTED)
