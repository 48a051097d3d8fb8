"""What a person sees of a check."""

from __future__ import annotations

import io

from rich.console import Console

from rdtops.checks import CheckResult, Report
from rdtops.views.preflight_output import CheckOutput

RESULTS = (
    CheckResult("clock", CheckResult.ok("", "").status, "agrees", group="host"),
    CheckResult("dataset", CheckResult.fail("", "").status, "no *.hdf5 in [/w]", "looked in [red]/w",
                "inv deploy --host a", group="assets"),
    CheckResult("shm", CheckResult.warn("", "").status, "64 MiB", group="host"),
    CheckResult("gpu", CheckResult.ok("", "").status, "8 x A800", source="gpu", group="gpu"))


def lines(report: Report, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(CheckOutput(report))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_groups_have_a_line_each_and_problems_their_evidence_and_remedy():
    shown = lines(Report("a", RESULTS, ("gpu",), {"imports": 2.25, "clock": 0.1}))
    assert shown[2:] == [
        "WARN  host    clock",
        "FAIL  assets",
        "OK    gpu     gpu",
        "FAIL dataset: no *.hdf5 in [/w]",
        "     looked in [red]/w",
        "  -> inv deploy --host a",
        "WARN shm: 64 MiB",
        "not ready: 1 FAIL; 1 WARN; 2 OK",
        "plugins that ran: gpu; slowest probe: imports, 2.2 s; each finding: inv check --host a --all"]


def test_a_remedy_is_whole_on_a_narrow_terminal():
    shown = lines(Report("a", RESULTS), width=50)
    assert "  -> inv deploy --host a" in shown
    assert "plugins that ran: none;" in " ".join(shown)


def test_a_report_without_a_check_is_not_ready():
    assert "not ready" in "\n".join(lines(Report("a", ())))


def test_json_has_what_the_table_has():
    (row,) = CheckOutput(Report("a", RESULTS, ("gpu",), {"clock": 0.1})).to_json()
    assert (row["passed"], row["probe_seconds"]) == (False, {"clock": 0.1})
    assert [(r["group"], r["name"], r["status"]) for r in row["results"]][1] == ("assets", "dataset", "FAIL")
