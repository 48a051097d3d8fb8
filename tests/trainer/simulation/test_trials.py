"""Trials on disk, and the numbers that are made of them."""

from __future__ import annotations

import pytest

from rdtops.trainer.simulation.simulator import Task
from rdtops.trainer.simulation.trials import ERROR, FAILURE, SUCCESS, Trial, TrialLog, report, table

TASKS = [Task("libero_90", 0, "A_close", "close it", "a.bddl"), Task("libero_90", 1, "B_open", "open it", "b.bddl")]


def test_a_trial_counts_once_its_line_is_whole_and_an_error_is_worth_another_try(tmp_path):
    log = TrialLog(tmp_path / "trials.jsonl")
    log.append(Trial("A_close", 0, SUCCESS, 40))
    log.append(Trial("A_close", 1, ERROR, error="SIGSEGV"))
    log.append(Trial("A_close", 2, FAILURE, 200))
    with log.path.open("a") as file:
        file.write('{"task": "A_close", "trial": 3, "outcome": "succ')
    assert set(log.ended()) == {("A_close", 0), ("A_close", 2)}
    assert log.read()["A_close", 1].error == "SIGSEGV"
    log.append(Trial("A_close", 1, SUCCESS, 50))  # on a line of its own, whatever was left before it
    assert set(log.ended()) == {("A_close", 0), ("A_close", 1), ("A_close", 2)}


def test_errors_are_shown_and_count_in_no_rate():
    trials = [*(Trial("A_close", n, SUCCESS, 40 + n) for n in range(3)), Trial("A_close", 3, FAILURE, 200),
              Trial("A_close", 4, ERROR, error="SIGKILL"), Trial("B_open", 0, FAILURE, 200)]
    found = report({"name": "x"}, TASKS, trials)
    first, second = found["tasks"]
    assert (first["successes"], first["trials"], first["errors"], first["success_rate"]) == (3, 4, 1, 0.75)
    assert first["wilson_95"] == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert first["mean_steps_to_success"] == 41
    assert (second["success_rate"], second["mean_steps_to_success"]) == (0, None)
    assert (found["total"]["successes"], found["total"]["trials"], found["total"]["errors"]) == (3, 5, 1)
    assert [t["trial"] for t in found["trials"]] == [0, 1, 2, 3, 4, 0]
    lines = table(found)
    assert lines[1].split() == ["3", "/", "4", "75.0", "%", "30.1", "to", "95.4", "%", "41", "close", "it", "(1",
                                "errors,", "not", "counted)"]
    assert lines[-1].split()[:3] + lines[-1].split()[-5:-4] == ["3", "/", "5", "all"]


def test_a_task_without_a_trial_that_counts_has_no_rate():
    (row,) = report({}, TASKS[:1], [Trial("A_close", 0, ERROR, error="x")])["tasks"]
    assert (row["trials"], row["success_rate"], row["wilson_95"]) == (0, None, None)
