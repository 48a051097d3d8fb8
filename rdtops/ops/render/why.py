"""How a diagnosis looks."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from rdtops.ops.render.forms import rows, shown
from rdtops.ops.why import Why


@shown.register
def _(thing: Why) -> RenderableType:
    found = thing.diagnosis
    style = "green" if found.passed else "bold red"
    lines = [f"[{style}]{found.cause}[/]  {escape(thing.run_id)} on {escape(thing.host)}: {escape(found.summary)}"]
    lines += [f"  [dim]{escape(str(line))}[/]" for line in found.lines]
    ended = [a for a in thing.attempts if a.get("exit_code") != 0]
    lines += [f"  attempt {a.get('attempt')} ended with {_code(a)}: {escape(str(a.get('cause')))}" for a in ended]
    lines.append(f"[bold]-> {escape(found.next)}[/]")
    return Group(*lines)


def _code(attempt: Any) -> str:
    code = attempt.get("exit_code")
    return "no exit code" if code is None else f"exit {code}"


@rows.register
def _(thing: Why) -> list[dict[str, Any]]:
    return [thing.to_json()]
