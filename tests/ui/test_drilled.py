"""A drill is shown as what its rows are, and fails as a whole when one thing of it failed."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from rdtops.ui.repository import Drilled


@dataclass(frozen=True)
class Row:
    fault: str
    times_hit: int
    seconds: float | None = None
    passed: bool = True


def shown(thing: Drilled) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(thing)
    return capture.get()


def test_the_fields_of_a_row_are_the_columns() -> None:
    text = shown(Drilled("two faults", (Row("[cut]", 3, 1.5), Row("frozen", 4)), verdict="all came right"))
    assert [word for word in ("two faults", "times hit", "[cut]", "1.5", "all came right") if word not in text] == []
    assert "None" not in text


def test_one_row_that_failed_fails_the_drill() -> None:
    drilled = Drilled("", (Row("cut", 3), Row("frozen", 4, passed=False)), verdict="all came right")
    assert drilled.exit_code == 1
    assert "FAIL" in shown(drilled)
    assert "all came right" not in shown(drilled)
    assert [row["passed"] for row in drilled.to_json()] == [True, False]


def test_a_problem_fails_the_drill_whatever_its_rows_say() -> None:
    drilled = Drilled("", (Row("cut", 3),), ("a file is half",))
    assert drilled.exit_code == 1
    assert "a file is half" in shown(drilled)
    assert Drilled("", (Row("cut", 3),)).exit_code == 0
