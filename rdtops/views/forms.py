"""The two forms of what a workflow yields. Each module beside this one gives them to the things of one noun."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from rich.console import RenderableType


@singledispatch
def shown(thing: Any) -> RenderableType:
    """What a person sees of a thing that a workflow yielded."""
    raise TypeError(f"nothing says how to show a {type(thing).__name__}")


@singledispatch
def rows(thing: Any) -> list[dict[str, Any]]:
    """The same thing as JSON objects."""
    raise TypeError(f"nothing says how {type(thing).__name__} looks as JSON")
