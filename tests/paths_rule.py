"""A plugin of mypy: on the laptop's side no plain text becomes a part of a path.

`folder / name` is refused where `name` is a `str` that may have come from a host. What may be joined: a literal, a
constant (`Final`), a Path, and the types of rdtops.contract.names, whose values were parsed. What a person typed or
hosts.toml says goes through `Path(...)`, which says so.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.plugin import MethodContext, Plugin
from mypy.types import Instance, LiteralType, Type, UnionType, get_proper_type

JOINS = {f"pathlib.{owner}.{method}" for owner in ("PurePath", "Path")
         for method in ("__truediv__", "joinpath", "with_name")}
LOCAL = {"pathlib.Path", "pathlib.PosixPath", "pathlib.PurePath"}
PARSED = {f"rdtops.contract.names.{name}" for name in ("RunId", "CheckpointName", "EvaluationName", "RelativePath")}
EXEMPT = ("proofs", "rdtops.trainer", "rdtops.lab", "rdtops.drills", "rdtops.benches", "rdtops.testing",
          "rdtops.supervisor")


class PathsRule(Plugin):
    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        return _refuse_text if fullname in JOINS else None


def _refuse_text(context: MethodContext) -> Type:
    joined = get_proper_type(context.type)
    is_local = isinstance(joined, Instance) and joined.type.fullname in LOCAL
    module = context.api.tree.fullname  # type: ignore[attr-defined]  # the checker's own
    if is_local and not module.startswith(EXEMPT):
        for group in context.arg_types:
            if not all(_is_known(kind) for kind in group):
                context.api.fail("a plain str is joined to a path: parse it by rdtops.contract.names first",
                                 context.context)
    return context.default_return_type


def _is_known(kind: Type) -> bool:
    proper = get_proper_type(kind)
    if isinstance(proper, UnionType):
        return all(_is_known(item) for item in proper.items)
    if isinstance(proper, LiteralType):
        return True
    if isinstance(proper, Instance):
        return (proper.type.fullname != "builtins.str" or proper.last_known_value is not None) \
            and (proper.type.fullname in PARSED | LOCAL or proper.type.fullname.startswith("pathlib.")
                 or proper.last_known_value is not None)
    return False


def plugin(version: str) -> type[Plugin]:
    return PathsRule
