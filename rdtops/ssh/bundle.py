"""Bundle: a host program and the modules of ours that it imports, as one source text that is sent over stdin."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rdtops.ssh.command import Command

TRAVELS = ("rdtops.hostlib.", "rdtops.on_host.", "rdtops.porter.")  # modules that a program may import
API = "rdtops.api"  # for plugins: only its imports from hostlib are sent

# What the host runs first: its stdin holds the size of the packed source, the packed source, and then the input of the
# program. The flags keep site-packages and PYTHONPATH out, which also saves time.
FLAGS = ("-I", "-S", "-u", "-Xutf8")  # UTF-8 whatever the locale is; a program that it starts keeps the locale
READER = ("import sys,zlib;i=sys.stdin.buffer;exec(compile(zlib.decompress(i.read(int(i.readline()))).decode(),"
          "'<rdtops>','exec'),{'__name__':'__main__'})")

_packing = threading.Lock()
_LOADER = """\
import sys, types
for _name, _text in {modules!r}:
    _module = sys.modules[_name] = types.ModuleType(_name)
    exec(compile(_text, _name, "exec"), _module.__dict__)
"""


def source(program: ModuleType) -> str:
    """Return the source of a program with the modules of ours that it needs; each module keeps its own names."""
    needed = [name for name in _needed(program.__name__) if name != program.__name__]
    text = _text(program.__name__)
    if not needed:
        return text
    packages = sorted({name[:end] for name in needed for end, letter in enumerate(name) if letter == "."})
    return (_LOADER.format(modules=[*((name, "") for name in packages), *((name, _text(name)) for name in needed)])
            + f"exec(compile({text!r}, {program.__name__!r}, 'exec'))\n")


def line(python: str) -> str:
    """Return the line of sh that reads and runs a program. It needs no process beside Python's."""
    return "exec " + Command(python, *FLAGS, "-c", READER).shell()


def packed(program: ModuleType) -> bytes:
    """Return what READER reads; compressed, because it is sent at every call, while TCP is still slow."""
    with _packing:  # ast.parse of Python 3.11 is not thread-safe
        return _packed(program)


@functools.cache
def _packed(program: ModuleType) -> bytes:
    content = zlib.compress(source(program).encode(), 9)
    return b"%d\n" % len(content) + content


def packed_request(program: ModuleType, request: Mapping[str, Any]) -> bytes:
    """Return a program and its first request, as READER expects them on stdin."""
    return packed(program) + json.dumps(request).encode() + b"\n"


def _needed(name: str, known: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the names of a module and its imports of ours, each after those it imports."""
    for node in ast.parse(_text(name)).body:
        for module in _imported(node):
            if module not in known:
                known = _needed(module, known)
    return known if name in known else (*known, name)


def _imported(node: ast.stmt) -> list[str]:
    """Return the modules of ours that a statement imports: `from rdtops.on_host import gate`, or names of one."""
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return []
    named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in named if name == API or (name.startswith(TRAVELS) and _is_module(name))]


@functools.cache
def _is_module(name: str) -> bool:
    return name.count(".") == 2 and importlib.util.find_spec(name) is not None


def _text(name: str) -> str:
    file = importlib.import_module(name).__file__
    assert file
    text = Path(file).read_text(encoding="utf-8")
    if name == API:
        shared = [node for node in ast.parse(text).body if _imported(node)]
        return "\n".join(map(ast.unparse, shared))
    return text
