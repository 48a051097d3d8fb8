"""The benchmark of transfers measures what it says, and hides no failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proofs.benches.transfer_bench import MB, OURS, PEERS, RACES, Load, Race, Times, Tool, _Bench
from proofs.wan.wan_lab import WanLab
from rdtops.ui.repository import Measured

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[_Bench]:
    (tmp_path / "files").mkdir()
    with WanLab(tmp_path / "lab") as lab:
        yield _Bench(tmp_path / "files", lab, lambda _: None)


def rows(bench: _Bench, race: Race) -> dict[str, Measured]:
    return {row.name.partition(": ")[2]: row for row in bench.race(race, race.repeats)}


@pytest.mark.parametrize("files", [1, 20])
def test_a_race_is_won_or_lost_by_its_ratio(bench: _Bench, files: int) -> None:
    goals = {"scp -J": 0.001, ("tar | ssh" if files > 1 else "rsync -J"): 1000}
    race = Race("some", "lan", files, MB // files, 1, goals)
    first, second = rows(bench, race).values()
    assert first.holds
    assert not second.holds
    assert 0 < second.value < 1000
    assert "failed" not in first.how + second.how


@pytest.mark.parametrize(("words", "said"), [
    (["true"], "exit 0, and the content differs"), (["sh", "-c", "echo no room; exit 3"], "exit 3: no room")])
def test_a_failure_is_told_and_never_counted_as_fast(
        bench: _Bench, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.setitem(PEERS, "scp -J", Tool("scp -J", lambda _lab, _load: words))
    row = rows(bench, Race("some", "lan", 1, MB, 1, {"scp -J": 0.001}))["scp -J / ours"]
    assert not row.holds
    assert said in row.how


def test_the_goals_are_those_that_were_set() -> None:
    goals = {(race.name, race.profile): {k: v for k, v in race.goals.items() if v} for race in RACES}
    assert goals == {
        ("256 MB", "wan"): {"scp -J": 1.7, "rsync -J": 1.7},
        ("1 GB", "wan"): {"scp -J": 2, "rsync -J": 2},
        ("2,000 files of 20 KB", "wan"): {"tar | ssh": 1, "scp -J": 5},
        ("256 MB", "lan"): {"rsync -J": 1},
        ("8 MB", "bad"): {"scp -J": 2.5, "rsync -J": 2.5},
        ("64 MB", "far"): {"scp -J": 4, "rsync -J": 4}}


def test_a_target_is_gone_before_the_next_run(bench: _Bench) -> None:
    bench._lab.up("lan")
    load = Load(bench._source(1, MB), bench._target("0"), MB)
    times = Times()
    bench._cold(bench._lab, OURS, load, times)
    assert times.seconds
    assert list(load.target.parent.iterdir()) == []
