"""What the checks found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.checks import CheckResult, Report, Status
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.words import SIGNS, stacked, table_of


@shown.register
def _(thing: Report) -> RenderableType:
    table = table_of(f"preflight of {thing.host}", "about", "", "check", "finding")
    for group, results in _by_group(thing.results):
        for number, result in enumerate(results):
            table.add_row("" if number else Text(group, "bold"), SIGNS[result.status], result.name, _finding(result))
    asked = max(thing.probe_seconds.items(), key=lambda item: item[1], default=None)
    slowest = f"; slowest probe: {asked[0]}, {asked[1]:.1f} s" if asked else ""
    return Group(table, _verdict(thing),
                 styled("[dim]plugins that ran: {}{}[/]", ", ".join(thing.plugins) or "none", slowest))


def _by_group(results: Iterable[CheckResult]) -> list[tuple[str, list[CheckResult]]]:
    """Groups in the order in which they first come."""
    found: dict[str, list[CheckResult]] = {}
    for result in results:
        found.setdefault(result.group or result.source or "rdtops", []).append(result)
    return list(found.items())


def _finding(result: CheckResult) -> Text:
    """What is wrong has what was seen and what to type below it."""
    if result.status not in (Status.WARN, Status.FAIL):
        return styled("[dim]{}[/]", result.summary)
    below = (("{}", result.summary), ("[dim]{}[/]", result.evidence), ("[bold]-> {}[/]", result.remedy))
    return stacked(*(styled(template, words) for template, words in below if words))


def _verdict(report: Report) -> Text:
    """The last line, since a long table has scrolled by."""
    named = {status: ", ".join(r.name for r in report.results if r.status is status)
             for status in (Status.FAIL, Status.WARN)}
    verdict = "[green]ready to train[/]" if report.passed else "[bold red]not ready[/]"
    parts = [f"{report.count(s)} {s.value}" + (f" ({named[s]})" if named.get(s) else "")
             for s in (Status.FAIL, Status.WARN, Status.OK, Status.SKIP) if report.count(s)]
    return styled(verdict + ": {}", "; ".join(parts))


@rows.register
def _(thing: Report) -> list[dict[str, Any]]:
    return [thing.to_json()]
