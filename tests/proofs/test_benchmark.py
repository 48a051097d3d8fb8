"""The proof in closed loop: its short form in the real simulator, its eyes, and what its rows claim."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from proofs.closed_loop import benchmark
from proofs.closed_loop.benchmark_config import DARK, PROOFS, TRAINED, UNTRAINED
from tests.trainer.worlds import needs_simulator


@needs_simulator
@pytest.mark.timeout(600)
def test_a_policy_trained_for_a_minute_drives_clearly_better_than_an_untrained_one(capsys, tmp_path) -> None:
    assert benchmark.main(["--quick", "--keep", str(tmp_path)]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    trained, untrained = rows["drawer, trained"], rows["drawer, untrained"]
    assert trained["holds"], trained
    assert trained["value"] >= untrained["value"] + 0.5
    assert untrained["holds"], untrained
    assert rows["drawer, minutes of training"]["value"] < PROOFS["drawer"].limit_minutes


def test_a_baseline_is_beaten_only_when_the_intervals_lie_apart() -> None:
    pick = replace(PROOFS["pick"], trials=20)
    good, some, none = [50] * 18 + [None] * 2, [50] * 10 + [None] * 10, [None] * 20
    assert benchmark._row(pick, TRAINED, good, {TRAINED: good}).holds
    assert not benchmark._row(pick, TRAINED, some, {TRAINED: some}).holds
    assert benchmark._row(pick, UNTRAINED, none, {TRAINED: good}).holds
    assert not benchmark._row(pick, DARK, [50] * 12 + [None] * 8, {TRAINED: good}).holds
