"""The short form of `inv drill network`: the cells that tell most, against a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from proofs import drills
from proofs.drills.network_drill import drill_network
from proofs.staging.ground import lab_in
from rdtops.errors import UsageError

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

CELLS = ("deploy lab killed within", "check lab frozen before", "watch lab-jump with another host key within",
         "logs lab killed within")


@pytest.mark.parametrize("cells", [CELLS[1::2], pytest.param(CELLS, marks=pytest.mark.slow)])
def test_a_link_that_breaks_is_named_and_what_was_typed_comes_right(
        named_assets: dict[str, str], tmp_path: Path, cells: tuple[str, ...]) -> None:
    said: list[str] = []
    with lab_in(tmp_path / "lab") as lab:
        drilled = drill_network(lab, tmp_path, named_assets, said.append, only=",".join(cells),
                                settings="connect_timeout_s = 4")
    assert drilled.problems == ()
    assert [f"{cell.phase} {cell.fault} {cell.when}" for cell in drilled.rows] == list(cells)
    assert all(cell.passed for cell in drilled.rows)
    assert drilled.rows[-1].back_s < 30


@pytest.mark.slow
@pytest.mark.parametrize("door", ["menu", "noforward"])  # the only hop that there is; a relay
def test_a_bastion_that_dies_is_named_at_each_door(named_assets: dict[str, str], tmp_path: Path, door: str) -> None:
    with lab_in(tmp_path / "lab", door) as lab:
        drilled = drill_network(lab, tmp_path, named_assets, [].append, only="deploy lab-jump killed within")
    assert drilled.problems == ()
    assert [cell.outcome for cell in drilled.rows] == ["ended"]


@pytest.mark.parametrize(("name", "door", "words"), [
    ("disk", "menu", "the drill disk has no --door; with one: laptop, network"),
    ("network", "code", "the door code asks a person at each login"),
])
def test_a_drill_at_a_door_where_it_cannot_be_is_refused(name: str, door: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        list(drills.drill([].append, name, door=door))
