"""When a silence is too long, and what counts as progress, by a Journal that is written as time goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.contract.config import preset
from rdtops.contract.recovery import Recovery
from rdtops.supervisor import pulse
from rdtops.supervisor.pulse import StallDetector

RECOVERY = Recovery(stuck_times=10, stuck_floor_s=30, setup_limit_s=100)
CONFIG = replace(preset("tiny"), max_steps=1000, checkpoint_every_steps=100, heldout_every_steps=0,
                 sample_every_steps=0)


class Told:
    """A Journal and a clock."""

    def __init__(self, folder: Path) -> None:
        self.journal, self.log = folder / "journal.jsonl", folder / "train.log"
        self.now_s = 0.0
        self.say("launched")
        self.say("attempt", attempt=1)
        self.detector = StallDetector(self.journal, self.log, CONFIG, RECOVERY, lambda: self.now_s)

    def say(self, kind: str, **data: object) -> None:
        with self.journal.open("a") as file:
            file.write(json.dumps({"kind": kind, "time_s": self.now_s, **data}) + "\n")

    def steps(self, numbers: range, each_s: float) -> None:
        for number in numbers:
            self.now_s += each_s
            self.say("step", step=number)
            self.detector.look()

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        self.detector.look()
        return self.detector.is_stuck


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_silence_of_many_median_steps_is_too_long(told: Told) -> None:
    told.steps(range(1, 20), 10.0)
    assert not told.wait(99)
    assert told.wait(2)


def test_quick_steps_have_a_floor(told: Told) -> None:
    told.steps(range(1, 20), 0.1)
    assert not told.wait(29)
    assert told.wait(2)


def test_after_a_step_that_saves_more_silence_is_allowed(told: Told) -> None:
    told.steps(range(1, 101), 0.1)
    assert not told.wait(119)
    assert told.wait(2)


def test_a_save_that_took_long_once_may_do_so_again(told: Told) -> None:
    told.steps(range(1, 101), 0.1)
    told.steps(range(101, 102), 90)
    told.steps(range(102, 201), 0.1)
    assert not told.wait(4 * 90 - 1)
    assert told.wait(2)


def test_before_the_first_step_a_growing_log_is_life_and_an_evaluation_is_none(told: Told) -> None:
    assert not told.wait(99)
    told.log.write_text("reading weights\n")
    assert not told.wait(50)
    told.say("trial", name="e")
    told.say("eval_started", name="e")
    assert told.wait(101)


def test_a_silence_before_the_first_step_is_told_long_before_it_is_too_long(told: Told, monkeypatch) -> None:
    monkeypatch.setattr(pulse, "SILENCE_S", 50.0)
    assert not told.wait(49)
    assert not told.detector.is_silent
    assert not told.wait(2)
    assert told.detector.is_silent
    told.log.write_text("stacks that the supervisor asked for\n")
    told.detector.pass_over_log()
    assert not told.wait(10)
    assert told.detector.silent_s == 61
    told.log.write_text("stacks that the supervisor asked for\na line of the trainer\n")
    told.detector.look()
    assert not told.detector.is_silent
    told.steps(range(1, 3), 1.0)
    told.now_s += 60
    assert not told.detector.is_silent  # a step's own limit counts from now on


def test_a_growing_log_is_no_life_once_it_trains(told: Told) -> None:
    told.steps(range(1, 20), 0.1)
    told.log.write_text("a warning, again and again\n")
    assert told.wait(31)


def test_only_a_new_checkpoint_ends_a_row_of_restarts(told: Told) -> None:
    told.say("checkpoint", step=100, name="step_000100")
    for number in (2, 3):
        told.say("attempt_ended", attempt=number - 1)
        told.say("attempt", attempt=number)
    told.detector.look()
    assert (told.detector.in_a_row, told.detector.attempts, told.detector.is_open) == (3, 3, True)
    told.say("checkpoint", step=100, name="step_000100")  # the same once more is no progress
    told.detector.look()
    assert told.detector.in_a_row == 3
    told.say("checkpoint", step=200, name="step_000200")
    told.say("attempt_ended", attempt=3)
    told.detector.look()
    assert (told.detector.in_a_row, told.detector.is_open) == (1, False)


def test_a_supervisor_that_is_started_again_knows_what_was_before(told: Told) -> None:
    told.steps(range(1, 20), 10.0)
    again = StallDetector(told.journal, told.log, CONFIG, RECOVERY, lambda: told.now_s)
    assert (again.attempts, again.is_open, again.last_step) == (1, True, 19)


@pytest.mark.parametrize(("kind", "limit_s"), [("failed", pulse.FAILED_S), ("finished", pulse.LEFT_S),
                                               ("stopped", pulse.LEFT_S)])
def test_a_last_word_is_no_sign_of_life_and_has_a_limit_of_its_own(told: Told, kind, limit_s) -> None:
    told.steps(range(1, 20), 1.0)
    told.say(kind, step=19)
    assert not told.wait(0)
    assert not told.detector.is_overdue
    told.now_s += limit_s / 2
    told.say("failed", step=19, type="PeerFailed")  # of another rank: the limit is the first word's
    told.detector.look()
    told.now_s += limit_s / 2 - 1
    assert not told.detector.is_overdue
    told.now_s += 2
    assert told.detector.is_overdue
    assert not told.wait(1000)  # it is not stuck
    told.say("attempt", attempt=2)
    told.detector.look()
    told.detector.begin()
    assert not told.detector.is_overdue
