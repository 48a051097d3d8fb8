"""docs/security.md names tests and files that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_check_names_a_test_and_a_place_that_there_are() -> None:
    text = (ROOT / "docs/security.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`test_" in line]
    assert len(rows) >= 12
    sources = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert [test for test in re.findall(r"`(test_\w+)`", text) if f"def {test}(" not in sources] == []
    places = [place for row in rows for place in re.findall(r"`([a-z_/]+(?:\.py)?)`", row.split("|")[3])]
    assert len(places) >= len(rows)
    assert [place for place in places if not (ROOT / "rdtops" / place).exists()] == []
