"""The broken files of `inv drill hostile`, in its short form."""

from __future__ import annotations

import pytest

from proofs.drills import hostile_drill

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

BROKEN_FILES = 6


def test_a_broken_file_is_made_again_or_said_and_stops_no_other_run(lab, named_assets, tmp_path) -> None:
    lab.up()
    drilled = hostile_drill.drill_hostile(lab, tmp_path, named_assets, lambda _: None,
                                          mutations=0, only="C8", is_short=True, broken=BROKEN_FILES)
    rows = [row for row in drilled.rows if row.row == "C8"]
    assert len(rows) == BROKEN_FILES
    assert [f"{row.attack}, {row.typed}: {row.seen}" for row in rows if not row.holds] == []
