"""Layers: the files of hosts. The project's hosts.toml, what it includes, and the user's own over them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rdtops.errors import ConfigError
from rdtops.user_folders import config_folder

FILE_NAME: Final = "hosts.toml"
LOCAL_PATHS = ("identity_file", "known_hosts")  # keys of a hop: paths on this laptop
BY_TABLE, BY_KEY = 2, 9  # levels that are merged: [hosts.NAME] replaces another one, or only its keys do


@dataclass(frozen=True)
class Layer:
    """One file: its tables, with the paths of this laptop made absolute."""

    file: Path
    text: str
    content: dict[str, Any]
    merges: int = BY_TABLE


def found() -> list[Layer]:
    """Read the project's file, that of the nearest folder upwards, and the user's own. Raise ConfigError."""
    own, project = own_file(), project_file()
    if own and project and own.exists() and own.samefile(project):
        own = None
    if not project and not own:
        raise ConfigError(f"there is no {FILE_NAME} in {Path.cwd()} or a folder above it, and none of your own",
                          remedy=f"cd to the project, or write {config_folder() / FILE_NAME}: docs/hosts.md")
    return [layer for file in (project, own) if file for layer in of(file)]


def project_file() -> Path | None:
    """Return the hosts.toml of this folder, or of the nearest one above it that has one."""
    here = Path.cwd()
    return next((folder / FILE_NAME for folder in (here, *here.parents) if (folder / FILE_NAME).is_file()), None)


def own_file() -> Path | None:
    """Return the user's own file of hosts: that of RDTOPS_HOSTS, else that of ~/.config where it exists."""
    if named := os.environ.get("RDTOPS_HOSTS"):
        return Path(named).expanduser().absolute()
    usual = config_folder() / FILE_NAME
    return usual if usual.is_file() else None


def of(file: Path) -> list[Layer]:
    """Read a file, and the one that it includes where that exists. Raise ConfigError."""
    text, content = _read(file)
    layers = [Layer(file, text, _anchored(content, file.parent))]
    if isinstance(included := content.get("include"), str):
        other = file.parent / Path(included).expanduser()
        if other.exists():
            text, content = _read(other)
            layers.append(Layer(other, text, _anchored(content, file.parent), BY_KEY))
    return layers


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the tables of all files, a later one over those before."""
    tables: dict[str, Any] = {}
    for layer in layers:
        tables = overlaid(tables, layer.content, layer.merges)
    return tables


def overlaid(below: dict[str, Any], above: dict[str, Any], levels: int) -> dict[str, Any]:
    """Return tables with others over them, merged so many levels deep.

    >>> overlaid({"hosts": {"lab": {"port": 22023, "gpus": 8}}}, {"hosts": {"lab": {"port": 25000}}}, BY_KEY)
    {'hosts': {'lab': {'port': 25000, 'gpus': 8}}}
    >>> overlaid({"hosts": {"lab": {"port": 22023, "gpus": 8}}}, {"hosts": {"lab": {"port": 25000}}}, BY_TABLE)
    {'hosts': {'lab': {'port': 25000}}}
    """
    both = {key: overlaid(below[key], above[key], levels - 1) for key in below.keys() & above.keys()
            if levels > 1 and isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **both}


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}",
                          remedy="cd to the project, or set RDTOPS_HOSTS=/path/to/hosts.toml") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error}") from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _anchored(content: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return the tables with the paths of this laptop resolved against the folder of their file."""
    def path(value: object) -> object:
        return str(base / Path(value).expanduser()) if isinstance(value, str) and value else value

    def hop(table: object) -> object:
        if not isinstance(table, dict):
            return table
        return {key: path(value) if key in LOCAL_PATHS else value for key, value in table.items()}

    convert = {"assets": path, "jumps": hop, "hosts": hop}
    return {key: {name: convert[key](value) for name, value in table.items()}
            if key in convert and isinstance(table, dict) else table for key, table in content.items()}


class Places:
    """Where the keys of merged tables stand, for messages."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    @property
    def files(self) -> list[str]:
        return [str(layer.file) for layer in self._layers]

    @property
    def to_edit(self) -> Path:
        """The user's own file where there is one, else the project's."""
        return next(layer.file for layer in reversed(self._layers) if layer.merges == BY_TABLE)

    def of(self, *keys: str) -> str:
        """Return `file:line` of a key, or of the table that lacks it."""
        _, _, file, line = max((depth, number, layer.file, line) for number, layer in enumerate(self._layers)
                               for line, depth in [_line_of(layer.text, keys)])
        return f"{file}:{line}"

    def defining(self, *keys: str) -> tuple[str, ...]:
        """Return the files that have a table such as ("hosts", "a800"), the one that counts first."""
        table, name = keys
        return tuple(str(layer.file) for layer in reversed(self._layers) if name in layer.content.get(table, {}))


def _line_of(text: str, keys: tuple[str, ...]) -> tuple[int, int]:
    """Return the line of a key of a TOML file, or of the table it is missing from, as well as a search can find it, and
    how many of the keys stand there."""
    best, depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            path = table = _parts(header[1])
        elif pair := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            path = (*table, *_parts(pair[1]))
        else:
            continue
        differs = (i for i, (a, b) in enumerate(zip(path, keys, strict=False)) if a != b)
        common = next(differs, min(len(path), len(keys)))
        if common > depth:
            best, depth = number, common
    return best, depth


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
