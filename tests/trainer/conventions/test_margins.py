"""The command that prints the margins of docs/training.md."""

from __future__ import annotations

from tests.trainer.conftest import RECORDING
from tests.trainer.conventions import margins
from tests.trainer.conventions import test_conventions as planted


def test_every_margin_finds_its_number_in_the_evidence_and_its_faults_among_those_planted() -> None:
    faulty = (change for name, change, *_ in planted.DATA_FAULTS if name in ("hand's frame", "action late"))
    found = [*planted.of_numbers(planted.motions()), *margins.of_images([str(RECORDING)]),
             *(finding for change in faulty for finding in planted.of_numbers(planted.motions(change)))]
    assert [m.judged_by for m in margins.MARGINS if not margins.values(m, found)] == []
    names = {fault[0] for fault in [*planted.DATA_FAULTS, *planted.SIGHT_FAULTS]}
    assert {name for m in margins.MARGINS for name in m.faults} <= names


def test_a_faulty_axis_is_many_standard_errors_away_and_a_clean_one_none() -> None:
    flipped = next(change for name, change, *_ in planted.DATA_FAULTS if name == "action x flipped")
    assert max(margins.astray_certainty(planted.motions(flipped), margins.CODECS[0])) > 6
    assert list(margins.astray_certainty(planted.motions(), margins.CODECS[0])) == []
