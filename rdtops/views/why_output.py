"""Why output: the diagnosis of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from rdtops.runs.why import Why
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import stacked


@dataclass(frozen=True)
class WhyOutput(WorkflowOutput):
    why: Why

    @property
    def exit_code(self) -> int:
        return 0 if self.why.passed else 1

    def __rich__(self) -> RenderableType:
        why, found = self.why, self.why.diagnosis
        style = "green" if found.passed else "bold red"
        failed = [a for a in why.attempts if a.get("exit_code") != 0]
        return stacked(
            styled(f"[{style}]{{}}[/]  {{}} on {{}}: {{}}", found.cause, why.run_id, why.host, found.summary),
            *(styled("  [dim]{}[/]", line) for line in found.lines),
            *(styled("  attempt {} ended with {}: {}", a.get("attempt"), _code(a), a.get("cause")) for a in failed),
            styled("[bold]-> {}[/]", found.next))

    def to_json(self) -> list[dict[str, Any]]:
        return [self.why.to_json()]


def _code(attempt: Mapping[str, Any]) -> str:
    code = attempt.get("exit_code")
    return "no exit code" if code is None else f"exit {code}"
