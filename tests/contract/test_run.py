import json
from dataclasses import replace

import pytest

from rdtops.contract import run
from rdtops.contract.config import override, preset
from rdtops.contract.run import Checkpoint, RunSpec, RunState, best_of, checkpoint_name, chosen, state_of
from rdtops.errors import ConfigError
from rdtops.hostlib import names


def spec() -> RunSpec:
    return RunSpec("20261124-101530-tiny-3fa9", "lab", "2026-11-24T10:15:30Z", "/w", "/w/releases/a", "a",
                   {"dataset": "/w/assets/d"}, preset("tiny"))


@pytest.mark.parametrize(("which", "step"), [
    ("latest", 30), ("best", 2), ("2", 2), ("step_000010", 10), ("000030", 30), ("7", None), ("²", None), ("-2", None),
    ("step_2", None), ("", None)])
def test_a_checkpoint_is_chosen_by_its_step_its_name_or_what_it_is(which, step):
    found = [Checkpoint(n, checkpoint_name(n), "", 0, "", loss) for n, loss in ((2, 0.1), (10, 0.3), (30, None))]
    assert getattr(chosen(found, which), "step", None) == step


def test_a_spec_survives_its_config_json():
    assert RunSpec.from_json(spec().to_json()) == spec()


def test_config_json_holds_every_value_and_their_digest():
    written = json.loads(spec().to_json())
    assert written["train"] == preset("tiny").to_json()
    assert written["train_digest"] == preset("tiny").digest
    other = replace(spec(), train=override(preset("tiny"), ["learning_rate=2.001e-3"]))
    assert json.loads(other.to_json())["train_digest"] != written["train_digest"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"run_id": 1}', spec().to_json()[:200]])
def test_a_broken_config_json_is_our_error(text):
    with pytest.raises(ConfigError):
        RunSpec.from_json(text)


def test_run_ids_sort_by_time_and_differ():
    ids = [run.new_run_id("tiny", now_s) for now_s in (1_000_000_000, 1_500_000_000, 1_500_000_001)]
    assert ids == sorted(ids)
    assert all(names.is_run_id(i) for i in ids)
    assert len({run.new_run_id("tiny", 0) for _ in range(50)}) > 45


@pytest.mark.parametrize(("facts", "state"), [
    ({"exit_code": None, "process_alive": False, "launched": False, "stop_requested": False}, RunState.PREPARED),
    ({"exit_code": None, "process_alive": True, "launched": True, "stop_requested": False}, RunState.RUNNING),
    ({"exit_code": 0, "process_alive": False, "launched": True, "stop_requested": False}, RunState.FINISHED),
    ({"exit_code": 1, "process_alive": False, "launched": True, "stop_requested": False}, RunState.FAILED),
    ({"exit_code": 1, "process_alive": False, "launched": True, "stop_requested": True}, RunState.STOPPED),
    ({"exit_code": None, "process_alive": False, "launched": True, "stop_requested": False}, RunState.LOST),
])
def test_the_state_follows_from_facts_of_the_host_alone(facts, state):
    assert state_of(**facts) is state
    assert state.ended is (state not in (RunState.PREPARED, RunState.RUNNING))


def checkpoint(step: int, loss: float | None) -> Checkpoint:
    return Checkpoint(step, f"step_{step:06d}", "", 0, "", loss)


def test_the_best_has_the_lowest_held_out_loss_and_of_equal_ones_the_earliest():
    found = [checkpoint(1, 0.3), checkpoint(2, 0.1), checkpoint(3, 0.1), checkpoint(4, None), checkpoint(5, 0.2)]
    assert best_of(found) is found[1]


def test_where_nothing_was_measured_nothing_is_the_best():
    assert best_of([]) is None
    assert best_of([checkpoint(1, None)]) is None
