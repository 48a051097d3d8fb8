"""Authoring: `inv plugins.new NAME` writes a working plugin with a passing test."""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from rdtops.errors import UsageError
from rdtops.plugging import discovery


@dataclass(frozen=True)
class Written:
    """The new files, and the next commands."""

    files: tuple[Path, ...]
    next_lines: tuple[str, ...]


def write(name: str, folder: Path, *, package: bool) -> Written:
    """Write a module and its test into `folder`, or with `package` a distribution into `folder`/rdtops-NAME. Raises
    UsageError for a name that is invalid or taken, or whose files exist."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(f"{name!r} is not a valid plugin name: small letters, digits and _, a letter first",
                         remedy="inv plugins.new scratch_space")
    taken = next((source for source in discovery.sources() if source.name == name), None)
    if taken:
        raise UsageError(f"a plugin {name!r} exists already: {taken.where}", remedy="inv plugins")
    texts = _package(name) if package else _files(name)
    root = folder / Path(f"rdtops-{_dashed(name)}") if package else folder
    written = {root / Path(path): text for path, text in texts.items()}
    present = [path for path in written if path.exists()]
    if present:
        raise UsageError(f"{present[0]} exists already and is not overwritten", remedy="choose another name")
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    test = next(path for path in written if path.parent.name == "tests")
    start = (f"pip install -e {root}",) if package else ()
    return Written(tuple(written),
                   (*start, f"pytest {test}", f"inv plugins   # lists {name}", "inv check --host lab"))


def _files(name: str) -> dict[str, str]:
    return {f"{name}.py": _text("plugin", name),
            f"tests/test_{name}.py": _text("test", name, what=f'Path(__file__).parents[1] / "{name}.py"',
                                           locate="from pathlib import Path\n", file=f"test_{name}.py")}


def _package(name: str) -> dict[str, str]:
    return {"pyproject.toml": _text("pyproject", name),
            f"rdtops_{name}.py": _text("plugin", name),
            f"tests/test_{name}.py": _text("test", name, what=f'"{name}"', locate="", file="tests")}


def _text(skeleton: str, name: str, **words: str) -> str:
    file = importlib.resources.files("rdtops.plugging") / "skeleton" / f"{skeleton}.txt"
    template = file.read_text(encoding="utf-8")
    return Template(template).substitute(name=name, Name=name.capitalize(), dashed=_dashed(name), **words)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
