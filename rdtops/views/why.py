"""How a diagnosis looks."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from rdtops.runs.why import Why
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.words import stacked


@shown.register
def _(thing: Why) -> RenderableType:
    found = thing.diagnosis
    style = "green" if found.passed else "bold red"
    ended = [a for a in thing.attempts if a.get("exit_code") != 0]
    return stacked(
        styled(f"[{style}]{{}}[/]  {{}} on {{}}: {{}}", found.cause, thing.run_id, thing.host, found.summary),
        *(styled("  [dim]{}[/]", line) for line in found.lines),
        *(styled("  attempt {} ended with {}: {}", a.get("attempt"), _code(a), a.get("cause")) for a in ended),
        styled("[bold]-> {}[/]", found.next))


def _code(attempt: Any) -> str:
    code = attempt.get("exit_code")
    return "no exit code" if code is None else f"exit {code}"


@rows.register
def _(thing: Why) -> list[dict[str, Any]]:
    return [thing.to_json()]
