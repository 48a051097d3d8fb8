"""Command: a command line for a remote shell. `Command.shell()` is the only place of the project that quotes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

LINE_BYTES = 120_000  # Linux takes 131,072 bytes in one argument
GREETING = b"exit 97\n"  # a shell that takes our input for its commands ends at once
READY = b"rdtops:4331\n"  # what comes before it is of the login shell; computed, so that an echo of the line has it not
NOT_OURS = "something read the input of the command before the command did"
_UMASK = "umask go-w;"
_GREETED = f'read -r REPLY;[ "$REPLY" = "{GREETING.decode().strip()}" ]||{{ echo "{NOT_OURS}" >&2;exit 97; }};'
_PROLOGUE = ("echo rdtops:$((61*71));echo rdtops:$((61*71)) >&2;"
             f'export PATH="${{PATH:-/usr/local/bin:/usr/bin:/bin}}";{_UMASK}')
_UNSAFE, _UNSAFE_OR_BACKSLASH = re.compile(r"[^ -~]+"), re.compile(r"[^ -\[\]-~]+")
_OUTSIDE_QUOTES = {"'": "\"'\"", "\\": "\\\\", "!": "\\!"}
_RUNS = re.compile(r"[^'\\!]+|.")


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


def for_the_host(line: str, *, has_input: bool = True) -> str:
    """Return the line that sshd gives to the login shell, whichever that is. Our line of sh prints READY on stdout and
    stderr before anything else; with input it waits for GREETING before that, as the first line of its stdin. Its umask
    removes at least the write permission of group and others (files 0644, folders 0755); a stricter umask of the host
    stays in force. Raise ValueError for a line that is too long."""
    return _for_any_shell((_GREETED if has_input else "") + _PROLOGUE + line)


def for_a_terminal(line: str) -> str:
    """Return the same for a line that a person sees and types into."""
    return _for_any_shell(_UMASK + line)


def _for_any_shell(line: str) -> str:
    """Return a line with which sh, bash, zsh, ksh, fish, tcsh and csh all run this line of sh. tcsh takes a newline for
    the end of the command, even between quotes, so newlines travel as octal numbers, as does what is not ASCII."""
    if _UNSAFE.search(line):
        program, words = 'eval "$(printf %b "$1")"', f" sh {_word(_UNSAFE_OR_BACKSLASH.sub(_octal, line))}"
    else:
        program, words = line, ""
    sent = f"exec /bin/sh -c {_word(program)}{words}"
    if len(sent) > LINE_BYTES:
        raise ValueError(f"a command line of {len(sent)} bytes is too long, send it over stdin: {line[:200]}")
    return sent


def _word(text: str) -> str:
    """Quote printable ASCII for every shell: fish obeys a backslash between quotes, and tcsh an exclamation mark."""
    return "".join(_OUTSIDE_QUOTES.get(run) or f"'{run}'" for run in _RUNS.findall(text))


def _octal(match: re.Match[str]) -> str:
    return "".join(f"\\0{byte:03o}" for byte in match[0].encode("utf-8", "surrogateescape"))


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
