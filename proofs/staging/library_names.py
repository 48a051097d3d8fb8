"""Library names: what the trainer takes from torch and its other libraries, and which of it an environment has.

`python -m proofs.staging.library_names` prints a JSON list of the names that the Python running it lacks. Standard
library: it runs in environments without anything of ours.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

TRAINER = Path(__file__).resolve().parents[2] / "rdtops" / "trainer"
LIBRARIES = frozenset(("torch", "numpy", "transformers", "diffusers", "accelerate", "safetensors", "h5py", "PIL",
                       "tokenizers"))
# these look at the version first, and do without what is not there
GUARDED = ("libraries.py", "distributed/fsdp2.py")


def used(folder: Path = TRAINER) -> list[str]:
    """Return the names, such as `torch.nn.functional.pad` and, for an option, `torch.nn.Linear(bias)`."""
    files = (path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).as_posix() not in GUARDED)
    return sorted({name for path in files for name in _names(ast.parse(path.read_text()))})


def missing(names: list[str]) -> list[str]:
    """Return those of the names that this Python's libraries do not have."""
    return [name for name in names if not _is_there(name)]


def _names(tree: ast.Module) -> Iterator[str]:
    bound: dict[str, str] = {}  # name in the module -> what it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound.update((alias.asname or alias.name.partition(".")[0], alias.name if alias.asname
                          else alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            bound.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
    bound = {name: meant for name, meant in bound.items() if meant.partition(".")[0] in LIBRARIES}
    yield from bound.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := _dotted(node, bound)):
            yield name
        elif isinstance(node, ast.Call) and (name := _dotted(node.func, bound)):
            yield from (f"{name}({keyword.arg})" for keyword in node.keywords if keyword.arg)


def _dotted(node: ast.expr, bound: dict[str, str]) -> str:
    """Return the whole name of `a.b.c`; '' for what does not begin with a library."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, "")
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value, bound)):
        return f"{before}.{node.attr}"
    return ""


def _is_there(name: str) -> bool:
    words, _, option = name.removesuffix(")").partition("(")
    try:
        found = _found(words.split("."))
    except (ImportError, AttributeError):
        return False
    return not option or _takes(found, option)


def _found(parts: list[str]) -> object:
    """Import as much of the name as is a module; the rest are attributes."""
    found: object = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:number]))
    return found


def _takes(function: object, option: str) -> bool:
    """Tell whether a function has the option; of one that is written in C it is not known."""
    try:
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(missing(used())) + "\n")
