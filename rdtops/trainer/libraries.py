"""Libraries: what differs between the versions of torch, transformers and accelerate that a host may have.

Every such difference is here, so that the rest of the trainer is written for the newest. `inv drill environments`
trains with the oldest versions of pyproject.toml, with some in between and with the newest.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import distributed

from rdtops.contract.config import FSDP2_TORCH
from rdtops.errors import ConfigError

OutOfMemoryError = torch.cuda.OutOfMemoryError  # of any device; torch 2.5 calls it torch.OutOfMemoryError, too
# of NCCL, of a store, of a backend: torch 2.1 has no base for them all
CommunicationError = getattr(distributed, "DistError", distributed.DistBackendError)

SIGLIP_FIRST = "embeddings.patch_embedding.weight"


def require_fsdp2() -> None:
    """Raise ConfigError where this torch has no fully_shard."""
    if torch.__version__ < FSDP2_TORCH:
        raise ConfigError(f"sharding = fsdp2 needs torch {FSDP2_TORCH} or newer; this is {torch.__version__}",
                          remedy="inv train --set sharding=zero1   # or a newer torch in the host's environment")


def adamw(parameters: Iterable[torch.nn.Parameter], device: torch.device, **options: Any) -> torch.optim.AdamW:
    """Return torch's AdamW, fused where this torch has that for the device: for CPUs since 2.4."""
    return torch.optim.AdamW(parameters, fused=device.type == "cuda" or torch.__version__ >= "2.4", **options)


def gradient_scaler(device: torch.device, *, enabled: bool) -> Any:
    """Return torch's GradScaler. Before torch 2.3 it was CUDA's alone."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=enabled)
    if enabled and device.type != "cuda":
        raise ConfigError(f"mixed_precision = fp16 on a {device.type} needs torch 2.3 or newer; this is "
                          f"{torch.__version__}", remedy="inv train --set mixed_precision=bf16")
    return torch.cuda.amp.GradScaler(enabled=enabled)


def leave_uninitialized() -> None:
    """Turn off what the deterministic mode adds since torch 2.2: filling each new tensor with NaN. rdt-1b would write
    19 GB a step, and every tensor of the trainer is written before it is read."""
    if hasattr(torch.utils, "deterministic"):
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def group_options(device: torch.device) -> dict[str, Any]:
    """Return the options of init_process_group that bind a rank to its GPU, so that NCCL is set up there and fails
    there, and not in the first step. torch 2.1 and 2.2 do not know them."""
    known = "device_id" in inspect.signature(distributed.init_process_group).parameters
    return {"device_id": device} if known and device.type == "cuda" else {}


def norms(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the 2-norm of each tensor in float64, all at once where this torch can add up in another type."""
    if any(argument.name == "dtype" for argument in torch.ops.aten._foreach_norm.Scalar._schema.arguments):  # noqa: SLF001
        return list(torch._foreach_norm(tensors, 2, torch.float64))  # noqa: SLF001  # clip_grad_norm_ calls it too
    return [torch.linalg.vector_norm(tensor, 2, dtype=torch.float64) for tensor in tensors]


def divide(tensors: list[torch.Tensor], divisor: torch.Tensor) -> None:
    """Divide the tensors by a number on their device, in place, all at once where this torch can."""
    if "Tensor" in torch.ops.aten._foreach_div_.overloads():
        torch._foreach_div_(tensors, divisor)
    else:
        torch._foreach_div_(tensors, [divisor] * len(tensors))


def weights_in(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the option of from_pretrained for the type of the weights: transformers 4.56 renamed it."""
    return {"dtype" if _transformers() >= (4, 56) else "torch_dtype": dtype}


def siglip_weights(folder: Path) -> dict[str, Any]:
    """Return the options of from_pretrained for the vision half of SigLIP where transformers 4 is to read what 5 wrote:
    5 leaves out the first part of each name."""
    path = folder / "model.safetensors"
    if _transformers() >= (5,) or not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            if SIGLIP_FIRST not in file.keys():  # noqa: SIM118  # it is no mapping
                return {}
            renamed = {f"vision_model.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:  # from_pretrained meets it, too
        return {}
    return {"pretrained_model_name_or_path": None, "state_dict": renamed}


def tokenizer_class(folder: Path) -> Any:
    """Return the class that loads the tokenizer of a folder. AutoTokenizer of transformers 4 does not know the class
    that 5 writes for a tokenizer.json of no certain model."""
    import transformers

    written = folder / "tokenizer_config.json"
    is_newer = written.is_file() and '"TokenizersBackend"' in written.read_text(encoding="utf-8", errors="replace")
    if is_newer and not hasattr(transformers, "TokenizersBackend"):
        return transformers.PreTrainedTokenizerFast
    return transformers.AutoTokenizer


def reads_pickled() -> bool:
    """Return whether transformers reads a .bin file with this torch: newer ones want torch 2.6 for that, because of
    CVE-2025-32434."""
    from transformers.utils import import_utils

    try:
        getattr(import_utils, "check_torch_load_is_safe", lambda: None)()
    except ValueError:
        return False
    return True


def begin(tracker: Any) -> None:
    """Open one of accelerate's trackers. In 0.30 and 1.2 its constructor has opened it."""
    start = getattr(tracker, "start", None)
    if start:
        start()


def _transformers() -> tuple[int, ...]:
    import transformers

    return tuple(int(number) for number in transformers.__version__.split(".")[:2])
