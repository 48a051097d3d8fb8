"""Tensor names: which tensor of a file is which of the model, where a training has put words before them; and what the
shapes say of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# what torch and accelerate put between the names of modules: DDP and DeepSpeed, torch.compile, FSDP, checkpoint_wrapper
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_LISTED = 3
_SECOND_AXES = {"lang_token_dim": "lang_adaptor.0.weight", "img_token_dim": "img_adaptor.0.weight",
                "max_lang_cond_len": "model.lang_cond_pos_embed", "img_cond_len": "model.img_cond_pos_embed"}


class TwoModels(ValueError):
    """A file with the tensors of the model twice, say beside their EMA."""


def plain(names: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Return name in the file -> name without wrappers, and without the one prefix of all that the model has. Names
    that are not the model's stay. Raise TwoModels.

    >>> plain(["module.a.b", "module.c"], ["a.b", "c"])
    {'module.a.b': 'a.b', 'module.c': 'c'}
    """
    wanted = set(wanted)
    short = {name: name if name in wanted else _unwrapped(name) for name in names}
    if len(set(short.values())) < len(short):
        return {name: name for name in short}
    prefix = "" if wanted & set(short.values()) else _prefix(set(short.values()), wanted)
    return {name: cut.removeprefix(prefix) for name, cut in short.items()}


def differences(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]],
                listed: int = _LISTED) -> str:
    """Return what differs between the shapes of a file, by the model's names, and those of the model; '' for
    nothing."""
    kinds = {"missing": sorted(wanted.keys() - found.keys()), "unexpected": sorted(found.keys() - wanted.keys()),
             "of another shape": [f"{name} is {found[name]}, the model needs {shape}" for name, shape in wanted.items()
                                  if name in found and found[name] != shape]}
    told = [f"{len(names)} {kind} ({some(names, listed)})" for kind, names in kinds.items() if names]
    sizes, needed = sizes_in(found), sizes_in(wanted)
    other = [f"{key} {sizes[key]} instead of {size}" for key, size in needed.items() if sizes.get(key, size) != size]
    return "; ".join(([f"by its shapes it has {', '.join(other)}"] if other else []) + told)


def sizes_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the sizes of config.json that shapes of an RDT show."""
    trajectory = shapes.get("model.x_pos_embed", ())
    sizes = {"pred_horizon": trajectory[1] - 3, "hidden_size": trajectory[2]} if len(trajectory) == 3 else {}
    blocks = [int(found[1]) for name in shapes if (found := re.match(r"model\.blocks\.(\d{1,6})\.", name))]
    sizes |= {"depth": 1 + max(blocks)} if blocks else {}
    return sizes | {key: shapes[name][1] for key, name in _SECOND_AXES.items() if len(shapes.get(name, ())) > 1}


def some(names: list[str], listed: int = _LISTED) -> str:
    rest = len(names) - listed
    return ", ".join(names[:listed]) + (f" and {rest} more" if rest > 0 else "")


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix(names: set[str], wanted: set[str]) -> str:
    """Return the prefix with which the names are those of the model; '' where there is none."""
    longest = max(wanted, key=len, default="")
    whole = [prefix for name in names if longest and name.endswith(f".{longest}")
             and all((prefix := name[:-len(longest)]) + one in names for one in wanted)]
    if len(whole) > 1:
        raise TwoModels(f"it holds the model {len(whole)} times: below {' and '.join(sorted(whole))}")
    if whole:
        return whole[0]
    first = min(names, key=len, default="")
    cuts = [first[:at + 1] for at, letter in enumerate(first) if letter == "."]
    return next((cut for cut in cuts if all(name.startswith(cut) for name in names)
                 and any(name.removeprefix(cut) in wanted for name in names)), "")
