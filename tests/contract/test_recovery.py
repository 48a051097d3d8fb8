"""Limits of restarts, and what may change so that a training fits into the memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rdtops.contract import overrides
from rdtops.contract.config import preset
from rdtops.contract.recovery import Recovery
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError


def test_words_carry_every_value() -> None:
    wanted = Recovery(restarts=3, backoff_s=0.5, stuck_floor_s=7)
    assert Recovery.from_words(wanted.words()) == wanted


@pytest.mark.parametrize(("word", "says"), [
    ("restart=1", "unknown setting 'restart'"), ("restarts=x", "'x' is not a number"),
    ("backoff_s=-1", "not negative")])
def test_a_word_that_makes_no_sense_is_refused(word: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Recovery.from_words([word])


def test_the_pause_doubles_up_to_its_limit() -> None:
    assert [Recovery(backoff_s=10, backoff_max_s=60).backoff(n) for n in (1, 2, 3, 4, 99)] == [10, 20, 40, 60, 60]


@pytest.mark.parametrize(("size", "accumulated", "sizes"), [
    (8, 1, [(4, 2), (2, 4), (1, 8)]), (6, 2, [(3, 4), (1, 12)]), (5, 1, [(1, 5)]), (1, 3, [])])
def test_less_memory_keeps_the_global_batch(size: int, accumulated: int, sizes: list[tuple[int, int]]) -> None:
    config = replace(preset("tiny"), batch_size_per_process=size, gradient_accumulation_steps=accumulated)
    found = []
    using = overrides.smaller(config)
    while using and using.gradient_checkpointing is not True:
        found.append((using.batch_size_per_process, using.gradient_accumulation_steps))
        assert using.global_batch_size == config.global_batch_size
        using = overrides.smaller(using)
    assert found == sizes
    assert using is not None  # the last resort
    assert overrides.smaller(using) is None


@pytest.fixture
def spec(tmp_path) -> RunSpec:
    made = RunSpec("r", "here", "", str(tmp_path), "/r", "s", {}, preset("tiny"))
    (tmp_path / "runs" / "r").mkdir(parents=True)
    return made


def test_overrides_hold_for_the_configuration_they_were_made_for(spec, tmp_path) -> None:
    assert overrides.used(spec) == spec.train
    smaller = overrides.smaller(spec.train)
    assert smaller
    overrides.write(tmp_path / "runs" / "r", spec.train, smaller)
    assert overrides.used(spec) == smaller
    other = replace(spec, train=replace(spec.train, batch_size_per_process=16))
    assert overrides.used(other) == other.train


def test_overrides_never_change_what_a_step_learns_from(spec, tmp_path) -> None:
    overrides.write(tmp_path / "runs" / "r", spec.train, replace(spec.train, batch_size_per_process=2))
    with pytest.raises(ConfigError, match="changes the global batch from 8 to 4"):
        overrides.used(spec)
