"""Command: a command line for a remote shell. `Command.shell()` is the only place of the project that quotes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secret:
    """A secret value: it goes over stdin or into a 0600 file and prints as ***."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True)
class Command:
    """A program and its arguments, each one word whatever it contains.

    >>> Command("ls", "-l", "my file").shell()
    "ls -l 'my file'"
    """

    argv: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def __init__(self, *argv: str, cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
        object.__setattr__(self, "argv", argv)
        object.__setattr__(self, "cwd", cwd)
        object.__setattr__(self, "env", dict(env or {}))

    def shell(self) -> str:
        """Return one POSIX shell line. Raise ValueError for a NUL, an invalid variable name or a Secret."""
        return "".join([f"cd -- {quoted(self.cwd)} && " if self.cwd is not None else "",
                        *(f"{variable(name)}={quoted(value)} " for name, value in self.env.items()),
                        " ".join(quoted(word) for word in self.argv)])


def for_the_host(line: str) -> str:
    """Return the line that sshd runs: a line of sh, whatever the login shell is. Its umask removes at least the write
    permission of group and others (files 0644, folders 0755); a stricter umask of the host stays in force."""
    return "exec sh -c " + quoted(f"umask go-w; {line}")


def quoted(word: str) -> str:
    if not isinstance(word, str):
        raise ValueError(f"{word!r} cannot be part of a command line")  # a Secret above all
    if "\0" in word:
        raise ValueError(f"a NUL character cannot be part of a command line: {word!r}")
    return shlex.quote(word)


def variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid environment variable name")
    return name
