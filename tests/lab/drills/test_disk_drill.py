"""The short form of `inv drill disk`: the rows that tell most, against a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from proofs.drills.disk_drill import CODE, END, drill_disk

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.mark.parametrize("moments", [(END,), pytest.param((END, CODE), marks=pytest.mark.slow)])
def test_a_full_disk_is_named_and_with_room_again_all_comes_right(
        named_assets: dict[str, str], tmp_path: Path, moments: tuple[str, ...]) -> None:
    said: list[str] = []
    drilled = drill_disk(tmp_path, named_assets, said.append, only=",".join(moments))
    if drilled.problems == ("run it as root",):
        pytest.skip("only root may mount a disk to fill")
    assert drilled.problems == ()
    assert [row.during for row in drilled.rows] == list(moments)
    assert "MB are needed" in drilled.rows[0].said
