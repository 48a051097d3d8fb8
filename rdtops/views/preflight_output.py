"""Preflight output: a line for each group of checks, and every problem with its evidence and next command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.checks import CheckResult, Report, Status
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import SIGNS, stacked, table_of, unbroken

PROBLEMS = (Status.FAIL, Status.WARN)


@dataclass(frozen=True)
class CheckOutput(WorkflowOutput):
    """The findings on a host. `everything`: a row for each check, not for each group."""

    report: Report
    everything: bool = False

    @property
    def exit_code(self) -> int:
        return 0 if self.report.passed else 1

    def __rich__(self) -> RenderableType:
        report = self.report
        asked = max(report.probe_seconds.items(), key=lambda item: item[1], default=None)
        slowest = f"; slowest probe: {asked[0]}, {asked[1]:.1f} s" if asked else ""
        rows = self._each() if self.everything else self._by_group()
        every = "" if self.everything else f"; each finding: inv check --host {report.host} --all"
        last = f"plugins that ran: {', '.join(report.plugins) or 'none'}{slowest}{every}"
        return Group(rows, *_problems(report), _verdict(report), styled("[dim]{}[/]", last))

    def _by_group(self) -> RenderableType:
        """Return a row for each group: its worst sign, and the checks that are well."""
        table = table_of(f"preflight of {self.report.host}", "", "about", "well")
        for group, results in _grouped(self.report.results):
            worst = next(status for status in (*PROBLEMS, Status.OK, Status.SKIP)
                         if any(r.status is status for r in results))
            well = ", ".join(r.name for r in results if r.status is Status.OK)
            skipped = [r.name for r in results if r.status is Status.SKIP]
            note = f" (not checked: {', '.join(skipped)})" if skipped else ""
            table.add_row(SIGNS[worst], Text(group, "bold"), styled("[dim]{}{}[/]", well, note))
        return table

    def _each(self) -> RenderableType:
        table = table_of(f"preflight of {self.report.host}", "about", "", "check", "finding")
        for group, results in _grouped(self.report.results):
            for number, result in enumerate(results):
                table.add_row("" if number else Text(group, "bold"), SIGNS[result.status], result.name,
                              styled("[dim]{}[/]", result.summary))
        return table

    def to_json(self) -> list[dict[str, Any]]:
        return [self.report.to_json()]


def _grouped(results: Iterable[CheckResult]) -> list[tuple[str, list[CheckResult]]]:
    """Group the results, in the order of first appearance."""
    found: dict[str, list[CheckResult]] = {}
    for result in results:
        found.setdefault(result.group or result.source or "rdtops", []).append(result)
    return list(found.items())


def _problems(report: Report) -> list[RenderableType]:
    """Return each problem with its evidence; problems of one remedy together, with the remedy once."""
    by_remedy: dict[str, list[CheckResult]] = {}
    for status in PROBLEMS:
        for result in report.results:
            if result.status is status:
                by_remedy.setdefault(result.remedy or f"{result.group} {result.name}", []).append(result)
    return [line for results in by_remedy.values() for line in together(results)]


def together(results: Sequence[CheckResult]) -> list[RenderableType]:
    """Return findings of one remedy: each with its evidence, then the remedy."""
    lines: list[RenderableType] = [
        stacked(styled("{} {}", SIGNS[r.status], f"{r.name}: {r.summary}"),
                *([styled("     [dim]{}[/]", r.evidence)] if r.evidence else [])) for r in results]
    remedy = [unbroken(styled("  [bold]-> {}[/]", results[0].remedy))] if results[0].remedy else []
    return [*lines, *remedy]


def _verdict(report: Report) -> Text:
    """Return the summary line, shown last because the findings scroll."""
    verdict = "[green]ready to train[/]" if report.passed else "[bold red]not ready[/]"
    parts = [f"{report.count(s)} {s.value}" for s in (*PROBLEMS, Status.OK, Status.SKIP) if report.count(s)]
    return styled(verdict + ": {}", "; ".join(parts))
