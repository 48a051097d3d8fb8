"""Requirements: the packages of the trainer and of its extras, from pyproject.toml, and their tested versions, from
constraints.txt."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import rdtops
from rdtops.errors import ConfigError

_ROOT = Path(rdtops.__file__).resolve().parents[1]


def of_trainer(tracker: str = "off", extras: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the requirements of the trainer, of a tracker and of further extras of pyproject.toml."""
    lines = [*of_extra("trainer"), *(line for line in of_extra("trackers") if line.startswith(tracker)),
             *(line for name in extras for line in of_extra(name))]
    return tuple(dict.fromkeys(lines))


@functools.cache
def of_extra(name: str) -> tuple[str, ...]:
    """Return the requirements of an extra of pyproject.toml."""
    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["project"]["optional-dependencies"][name])


def lowest(lines: Iterable[str]) -> dict[str, str]:
    """Return the lowest version of each package: {"torch": "2.1.0"}."""
    found: dict[str, str] = {}
    for line in lines:
        package, version = re.split(r"[<>=]+", line, maxsplit=1)
        found[package] = max(found.get(package, "0"), version.split(",")[0], key=numbers)
    return found


def pins() -> dict[str, str]:
    """Return the tested version of each package, by the name that constraints.txt gives it."""
    lines = (_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and line[0] != "#")


def package_of(requirement: str) -> str:
    """Return the normalised name of PEP 503: `Foo_bar[extra]>=1` is foo-bar."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if not found:
        raise ConfigError(f"{requirement!r} names no package")
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version, without those of its build: (2, 6, 0) of 2.6.0+cu124."""
    return tuple(int(n) for n in re.findall(r"\d{1,9}", version.partition("+")[0])[:3])
