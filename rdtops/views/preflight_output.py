"""Preflight output: the findings of the checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.checks import CheckResult, Report, Status
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import SIGNS, stacked, table_of


@dataclass(frozen=True)
class CheckOutput(WorkflowOutput):
    report: Report

    @property
    def exit_code(self) -> int:
        return 0 if self.report.passed else 1

    def __rich__(self) -> RenderableType:
        report = self.report
        table = table_of(f"preflight of {report.host}", "about", "", "check", "finding")
        for group, results in _by_group(report.results):
            for number, result in enumerate(results):
                table.add_row("" if number else Text(group, "bold"), SIGNS[result.status], result.name,
                              finding(result))
        asked = max(report.probe_seconds.items(), key=lambda item: item[1], default=None)
        slowest = f"; slowest probe: {asked[0]}, {asked[1]:.1f} s" if asked else ""
        return Group(table, _verdict(report),
                     styled("[dim]plugins that ran: {}{}[/]", ", ".join(report.plugins) or "none", slowest))

    def to_json(self) -> list[dict[str, Any]]:
        return [self.report.to_json()]


def _by_group(results: Iterable[CheckResult]) -> list[tuple[str, list[CheckResult]]]:
    """Group the results, in the order of first appearance."""
    found: dict[str, list[CheckResult]] = {}
    for result in results:
        found.setdefault(result.group or result.source or "rdtops", []).append(result)
    return list(found.items())


def finding(result: CheckResult) -> Text:
    """Return the finding; a problem has its evidence and the next command below it."""
    if result.status not in (Status.WARN, Status.FAIL):
        return styled("[dim]{}[/]", result.summary)
    below = (("{}", result.summary), ("[dim]{}[/]", result.evidence), ("[bold]-> {}[/]", result.remedy))
    return stacked(*(styled(template, words) for template, words in below if words))


def _verdict(report: Report) -> Text:
    """Return the summary line, shown last because a long table scrolls."""
    named = {status: ", ".join(r.name for r in report.results if r.status is status)
             for status in (Status.FAIL, Status.WARN)}
    verdict = "[green]ready to train[/]" if report.passed else "[bold red]not ready[/]"
    parts = [f"{report.count(s)} {s.value}" + (f" ({named[s]})" if named.get(s) else "")
             for s in (Status.FAIL, Status.WARN, Status.OK, Status.SKIP) if report.count(s)]
    return styled(verdict + ": {}", "; ".join(parts))
