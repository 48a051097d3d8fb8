"""Transfers killed at random moments converge, and nobody ever sees a wrong file under a final name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from proofs.drills.transfer_drill import LINE, MB, drill_transfers, loopback_ground, wan_ground
from proofs.staging.observer import Observer, Seen
from proofs.wan.wan_lab import WanLab
from rdtops.errors import LabError
from rdtops.lab.site import Lab
from rdtops.ui.repository import Drilled

pytestmark = pytest.mark.lab

RIGHT = b"right" * 100_000


def no_fault_did_harm(drill: Drilled, kills: int) -> None:
    assert drill.passed, drill
    assert sum(row.killed for row in drill.rows) == kills, drill


def test_killed_transfers_converge_and_show_no_wrong_file(lab: Lab, tmp_path: Path, home: None) -> None:
    lab.up()
    drill = drill_transfers(loopback_ground(lab), tmp_path / "drill", 12, said.append, size_bytes=16 * MB)
    no_fault_did_harm(drill, 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_transfers_send_little_twice_on_a_slow_line(tmp_path: Path) -> None:
    with WanLab(tmp_path / "lab") as lab:
        try:
            lab.up(LINE)
        except LabError as error:
            pytest.skip(f"no WAN lab here: {error.message}")
        drill = drill_transfers(wan_ground(lab), tmp_path / "drill", 40, said.append, size_bytes=64 * MB)
    no_fault_did_harm(drill, 40)


said: list[str] = []


# --- the observer would see it ---

@pytest.fixture
def watched(tmp_path: Path) -> tuple[Path, Observer]:
    folder = tmp_path / "watched"
    folder.mkdir()
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps({"final": hashlib.md5(RIGHT).hexdigest()}))
    return folder, Observer(folder, expected)


def seen_after(watched: tuple[Path, Observer], name: str, content: bytes, final: str = "") -> Seen:
    folder, observer = watched
    with observer:
        (folder / name).write_bytes(content)
        if final:
            (folder / name).replace(folder / final)
        return observer.end()


def test_a_complete_file_renamed_is_right(watched: tuple[Path, Observer]) -> None:
    assert seen_after(watched, "part", RIGHT, "final") == Seen(appeared=1)


def test_a_wrong_file_renamed_is_seen(watched: tuple[Path, Observer]) -> None:
    assert "final: appeared with another MD5" in seen_after(watched, "part", RIGHT[:-1], "final").wrong


def test_a_file_written_under_its_final_name_is_seen_though_it_is_right_in_the_end(
        watched: tuple[Path, Observer]) -> None:
    assert "final: written under its final name" in seen_after(watched, "final", RIGHT).wrong


def test_what_has_no_final_name_may_be_anything(watched: tuple[Path, Observer]) -> None:
    assert seen_after(watched, "part", b"half") == Seen()
