"""The short form of `inv drill hostile`: each named attack where it matters; and that the drill sees what it is there
to see. Its mutations and its broken files are in two other modules, so that the three can run side by side."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from proofs.drills import hostile_drill
from proofs.hostile import attacks, mutations, stranger
from proofs.staging import broken_files
from proofs.staging.observed_home import CommandEnd, Home, TypedCommand
from rdtops.ui.repository import Drilled

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NAMED = [a.name for a in attacks.attacks() if not a.is_slow and a.is_short is not False]


@pytest.fixture(scope="module")
def drilled(lab, named_assets, tmp_path_factory) -> Drilled:
    lab.up()
    return hostile_drill.drill_hostile(lab, tmp_path_factory.mktemp("hostile"), named_assets, lambda _: None,
                                       mutations=0, broken=0, is_short=True)


@pytest.mark.parametrize("attack", NAMED)
def test_a_hostile_host_writes_nothing_takes_no_terminal_and_is_told_of(drilled: Drilled, attack: str) -> None:
    rows = [row for row in drilled.rows if row.attack == attack]
    assert rows
    assert [f"{row.typed}: {row.seen}" for row in rows if not row.holds] == []


def test_another_user_of_the_host_keeps_no_training_from_beginning_or_going_on() -> None:
    if stranger.obstacle():
        pytest.skip(stranger.obstacle())
    rows = list(stranger.attacks(without="gate"))  # who holds that one is waited for, 10 s
    assert len(rows) > 20
    assert [f"{row.attack}: {row.seen}" for row in rows if not row.passed] == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_attack_on_every_command(lab, named_assets, tmp_path) -> None:
    lab.up()
    drilled = hostile_drill.drill_hostile(lab, tmp_path, named_assets, lambda _: None,
                                          mutations=hostile_drill.MUTATIONS)
    assert drilled.problems == ()


# --- the drill itself ---

@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.make()
    return found


def test_the_drill_sees_what_lies_where_it_should_not(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "type", lambda *_: None)
    before = home.snapshot()
    run = home.results / "lab" / "20260102-000000-hostile-0002"
    run.mkdir(parents=True)
    (run / "README.md").write_text("of a run")
    assert home.wrong(before, ("lab",)) == []
    (run / "link").symlink_to("README.md")
    os.mkfifo(run / "fifo")
    (home.results / "lab" / "plugins").mkdir()
    (home.project / "plugins" / "pwned.py").touch()
    (home.project / "tasks.py").write_text("")
    home.secret.unlink()
    home.flag.touch()
    said = "; ".join(home.wrong(before, ("lab",)))
    for words in ("link is a link to README.md", "fifo is no file", "plugins' is not of a run",
                  "made project/plugins/pwned.py", "changed project/tasks.py", "removed Documents/secret.txt",
                  "code of the host has run"):
        assert words in said


@pytest.mark.parametrize(("said", "code", "wrong"), [
    (b"a \x1b[31mred\x1b[0m line\n", 1, ""), (b"\x1b[?25l 5 %\r\x1b[2K", 0, ""),
    (b"\x1b]52;c;aGk=\x07", 0, "came through"), (b"\xc2\x9b2J", 0, "came through"), (b"\xff", 0, "not UTF-8"),
    ("\u202e".encode(), 0, "came through"), (b"", -9, "exit -9"),
    (b'Traceback (most recent call last):\n  File "/x/home/project/rdtops/runs/overview.py", line 5\nKeyError: 1\n', 1,
     "traceback, rdtops/runs/overview.py:5: KeyError: 1")])
def test_the_drill_sees_what_comes_to_the_terminal(said: bytes, code: int, wrong: str) -> None:
    found = TypedCommand((CommandEnd("status", code, said, b""),), 1.0, 90, False, False, "").wrong(5)
    assert wrong in "; ".join(found)
    assert bool(found) == bool(wrong)


def test_a_command_that_hangs_or_swells_is_seen() -> None:
    found = TypedCommand((), 30.0, 900, True, True, "rdtops/runs/watch.py:5").wrong(30)
    assert found == ["no end within 30 s, in rdtops/runs/watch.py:5", "900 MiB of memory", "endless output"]


def test_a_mutation_is_the_same_one_again() -> None:
    message = {"runs": [{"run_id": "a", "exit_code": 0, "config": "{}"}], "gpus": []}
    for number in range(200):
        first, again = ([repr(m) for m in mutations.of(message, random.Random(number))] for _ in range(2))
        assert first == again
    assert message == {"runs": [{"run_id": "a", "exit_code": 0, "config": "{}"}], "gpus": []}


def test_files_are_broken_in_ten_ways_and_more() -> None:
    cases = list(broken_files.cases())
    assert len({case.file for case in cases}) > 36
    assert len({case.way for case in cases}) >= 10
