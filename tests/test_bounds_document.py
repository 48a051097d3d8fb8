"""The table of bounds in docs/faults.md says what the code does, and names tests that there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20}
BOUND = re.compile(r"`(rdtops[\w.]+)\.(\w+)` = ([\d,.]+) ?(\w*)")


def rows() -> list[list[str]]:
    text = (ROOT / "docs/faults.md").read_text().partition("\n## Bounds\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("row", rows()[2:], ids=lambda row: row[0])
def test_a_bound_is_what_the_document_says_and_a_test_holds_it(row: list[str]) -> None:
    _, bound, beyond, tests = row
    matched = BOUND.fullmatch(bound)
    assert matched, bound
    module, name, value, unit = matched.groups()
    assert getattr(importlib.import_module(module), name) == float(value.replace(",", "")) * UNITS[unit]
    assert beyond
    sources = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", tests)
    assert named
    assert [test for test in named if f"def {test}(" not in sources] == []


def test_the_document_has_the_bounds() -> None:
    assert len(rows()) > 15
