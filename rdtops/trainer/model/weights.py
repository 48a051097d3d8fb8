"""Weights on disk: find them in a directory, read them without running code, load them into a module."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rdtops.errors import WeightsError
from rdtops.hostlib import files
from rdtops.hostlib.fields import loads

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
DEEPSPEED = "mp_rank_00_model_states.pt"
# In this order; the last two are written by a DeepSpeed training.
CANDIDATES = (SAFETENSORS, "pytorch_model.bin", DEEPSPEED, f"pytorch_model/{DEEPSPEED}")
_LISTED = 12  # listed keys per kind of mismatch; the rest is counted


def read_config(directory: str | Path) -> dict[str, Any]:
    path = Path(directory) / CONFIG
    try:
        config = loads(files.head_of(path))
    except FileNotFoundError as error:
        raise WeightsError(f"{directory} has no {CONFIG}", remedy="inv deploy --only weights") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not JSON: {error}", remedy="inv deploy --only weights") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path} must hold a JSON object")
    return config


def read(directory: str | Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return the first of CANDIDATES in `directory`, and its tensors in float32 on the CPU."""
    path = next((p for name in CANDIDATES if (p := Path(directory) / name).is_file()), None)
    if path is None:
        raise WeightsError(f"{directory} has no weights: none of {', '.join(CANDIDATES)}",
                           remedy="inv deploy --only weights")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty", remedy="inv deploy --only weights")
    tensors = mapped_tensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    odd = sorted(name for name, t in tensors.items() if not t.is_floating_point() or t.layout != torch.strided)
    if odd:
        raise WeightsError(f"{path}: {len(odd)} tensors are not plain floating-point numbers ({_some(odd)})")
    return path, {name: t.to(torch.float32, copy=True) for name, t in tensors.items()}


def fit(module: nn.Module, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Make `tensors` the parameters of `module`. Raise WeightsError with every missing, unexpected and misshapen
    key."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    misshapen = [f"{name} is {tuple(tensors[name].shape)}, the model needs {shape}"
                 for name, shape in wanted.items() if name in tensors and tuple(tensors[name].shape) != shape]
    found = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - wanted.keys()),
        "misshapen": misshapen,
    }
    if any(found.values()):
        raise WeightsError(f"{source} does not fit the model of its {CONFIG}: " + "; ".join(
            f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in found.items() if keys))
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
        raise WeightsError(f"{path} is damaged or incomplete: {error}", remedy="inv deploy --only weights") from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    """Unpickle tensors only: refuse a file with anything else, above all code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of unusual opcodes; the file then loads or raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} holds more than tensors, or is damaged; it was not loaded, because unpickling it "
                           f"could run code: {_first_line(error)}", remedy="inv deploy --only weights") from error
    except Exception as error:  # damaged opcodes may call allowed functions with any arguments
        raise WeightsError(f"{path} is damaged or incomplete: {_first_line(error)}",
                           remedy="inv deploy --only weights") from error
    if isinstance(content, dict) and isinstance(content.get("module"), dict):  # DeepSpeed's wrapper
        content = content["module"]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise WeightsError(f"{path} must hold a table of tensors")
    return {str(name): tensor for name, tensor in content.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _some(keys: list[str]) -> str:
    rest = len(keys) - _LISTED
    return ", ".join(keys[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
