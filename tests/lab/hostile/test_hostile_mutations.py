"""The mutations of `inv drill hostile`, in its short form."""

from __future__ import annotations

import pytest

from proofs.drills import hostile_drill

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

MUTATIONS = 21


def test_honest_answers_that_are_changed_at_random_hurt_as_little(lab, named_assets, tmp_path) -> None:
    lab.up()
    drilled = hostile_drill.drill_hostile(lab, tmp_path, named_assets, lambda _: None,
                                          mutations=MUTATIONS, only="mutation", is_short=True)
    rows = [row for row in drilled.rows if row.row == "B0"]
    assert len(rows) >= MUTATIONS
    assert [f"{row.attack}, {row.typed}: {row.seen}" for row in rows if not row.holds] == []
