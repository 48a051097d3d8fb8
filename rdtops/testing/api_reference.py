"""Reference of rdtops.api, made from its code: docs/plugins_api.md.

    python -m rdtops.testing.api_reference > docs/plugins_api.md
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from typing import Any

from rdtops import api

HEAD = """# What a plugin may use

Every name of `rdtops.api`, with its attributes. Made from the code: `python -m rdtops.testing.api_reference`; a test
holds this page to it. [plugins.md](plugins.md) says how a plugin is written.
"""


def markdown() -> str:
    """Return the page: types with a table of their attributes, then functions, modules and values."""
    things = {name: getattr(api, name) for name in api.__all__}
    kinds = [(name, thing) for name, thing in things.items() if inspect.isclass(thing)]
    functions = [(name, thing) for name, thing in things.items() if inspect.isfunction(thing)]
    modules = [(name, thing) for name, thing in things.items() if inspect.ismodule(thing)]
    return "\n".join([HEAD, "## Types", "", *(line for kind in kinds for line in _type(*kind)),
                      "## Functions", "", *_table("function", (_signed(*f) for f in functions)), "",
                      "## Modules", "", *(line for module in modules for line in _module(*module))]).rstrip() + "\n"


def _type(name: str, kind: type) -> Iterator[str]:
    yield from (f"### {name}", "", _first(kind) or "A type.", "")
    rows = list(_attributes(kind))
    if rows:
        yield from _table("attribute", rows)
        yield ""


def _attributes(kind: type) -> Iterator[tuple[str, str]]:
    """Yield each public attribute as it is used, and what it means: of a field, the comment beside it."""
    if issubclass(kind, enum.Enum):
        yield from ((one.name, f"`{one.value}`") for one in kind)
        return
    seen = set()
    for base in kind.__mro__:
        if base.__module__.startswith("rdtops"):
            comments = _comments(base)
            for name, annotation in inspect.get_annotations(base).items():
                if name not in seen and not name.startswith("_"):
                    seen.add(name)
                    yield f"{name}: {annotation}", comments.get(name, "")
    for name, member in inspect.getmembers(kind):
        if name.startswith("_") or name in seen or not _is_ours(member):
            continue
        if isinstance(member, property):
            yield name, _first(member)
        elif callable(member):
            yield f"{name}({_parameters(member)})", _first(member)


def _is_ours(member: Any) -> bool:
    target = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return str(getattr(target, "__module__", "")).startswith("rdtops")


def _comments(kind: type) -> dict[str, str]:
    """Return the comment at the end of the line of each field."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = re.search(r"  # (.*)$", lines[(node.end_lineno or node.lineno) - 1])
            found[node.target.id] = comment[1] if comment else ""
    return found


def _signed(name: str, function: Any) -> tuple[str, str]:
    return f"{name}({_parameters(function)})", _first(function)


def _module(name: str, module: types.ModuleType) -> Iterator[str]:
    public = [(one, thing) for one, thing in vars(module).items()
              if not one.startswith("_") and getattr(thing, "__module__", "") == module.__name__]
    yield from (f"### {name}", "", _first(module), "")
    yield from _table("name", ((_signed(one, thing) if inspect.isfunction(thing) else (one, _first(thing)))
                               for one, thing in public))
    yield ""


def _parameters(function: Any) -> str:
    try:
        return ", ".join(str(p).split(":")[0].split(" =")[0].split("=")[0] for n, p in
                         inspect.signature(function).parameters.items() if n not in ("self", "cls"))
    except (TypeError, ValueError):
        return "..."


def _first(thing: Any) -> str:
    """Return the first sentence of a docstring."""
    if dataclasses.is_dataclass(thing) and (thing.__doc__ or "").startswith(f"{getattr(thing, '__name__', '')}("):
        return ""
    text = " ".join((inspect.getdoc(thing) or "").split())
    return re.split(r"(?<=\.) ", text + " ", maxsplit=1)[0].strip()


def _table(head: str, rows: Any) -> Iterator[str]:
    yield f"| {head} | meaning |"
    yield "|---|---|"
    for name, meaning in rows:
        shown = name.replace("|", "\\|")
        yield f"| `{shown}` | {meaning.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
