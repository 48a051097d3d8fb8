"""Options: the options that a plugin declares, and the check of `[hosts.a800.plugins.disk]` in hosts.toml."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.contract.config import nearest
from rdtops.errors import ConfigError

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list of strings"}


@dataclass(frozen=True)
class Option:
    """One setting of a plugin for one host.

    >>> OPTIONS = {"min_free_gb": Option(float, "GB that must be free", default=0.0, least=0)}
    """

    kind: type  # bool, int, float, str, or list (of str)
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()  # for str, and for each string of a list
    least: float | None = None
    pattern: str = ""  # a regular expression that the whole string must match

    def __post_init__(self) -> None:
        if self.kind not in _WORDS:
            raise ValueError(f"an option cannot be of type {self.kind!r}; use one of {', '.join(_names())}")
        wrong = "" if self.default is None else self.problem(self.default)
        if wrong:
            raise ValueError(f"the default {self.default!r} is invalid: {wrong}")

    def problem(self, value: Any) -> str:
        """Return what is wrong with a value, or ''. Never include the value, which may be a misplaced secret."""
        if not _is(self.kind, value):
            return f"must be {_WORDS[self.kind]}, not {type(value).__name__}"
        if self.least is not None and value < self.least:
            return f"must be at least {self.least:g}"
        texts = value if self.kind is list else [value] if self.kind is str else []
        if self.choices and any(text not in self.choices for text in texts):
            return f"must be {'some' if self.kind is list else 'one'} of {', '.join(self.choices)}"
        if self.pattern and not all(re.fullmatch(self.pattern, text) for text in texts):
            return f"does not match the expected format ({self.help})"
        return ""


TIME_LIMIT = "time_limit_s"
COMMON = {TIME_LIMIT: Option(float, "seconds that each hook of this plugin may take", least=1)}  # every plugin has it


def filled(declared: Mapping[str, Option], given: Mapping[str, Any], table: str) -> dict[str, Any]:
    """Return the values of all options, defaults included. Raise ConfigError that lists every mistake in `table`."""
    known = {**declared, **COMMON}
    wrong = [f"unknown option {name!r}{nearest(name, known)}" for name in given if name not in known]
    wrong += [f"{name} {problem}" for name, value in given.items()
              if name in known and (problem := known[name].problem(value))]
    if wrong:
        raise ConfigError(f"[{table}]: {'; '.join(wrong)}; options: {', '.join(known)}",
                          remedy=f"edit [{table}] in hosts.toml   # inv plugins shows the options")
    return {name: given.get(name, option.default) for name, option in known.items()}


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is list:
        return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    return type(value) is kind


def _names() -> list[str]:
    return [kind.__name__ for kind in _WORDS]
