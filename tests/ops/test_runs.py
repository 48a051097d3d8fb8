"""What a run's Journal says of it, read from a recorded tail."""

import json

import pytest

from rdtops.contract.config import preset
from rdtops.contract.run import RunSpec, RunState
from rdtops.ops import runs

SPEC = RunSpec("20261124-101530-tiny-3fa9", "lab", "2026-11-24T10:15:30Z", "/w", "/w/releases/a", "a", {},
               preset("tiny"))
LAUNCHED = {"kind": "launched", "launcher": "tmux", "pid": 1}
STARTED = {"kind": "started", "resumed_from_step": 0}
STEP = {"kind": "step", "step": 7, "loss": 0.5, "samples_per_s": 3.0, "eta_s": 9.0, "data_s": 0.1, "save_s": 0.0}
SAVED = {"kind": "checkpoint", "step": 7, "name": "step_000007", "size_bytes": 1, "digest": "", "heldout_loss": 0.4}
STOPPED = {"kind": "stopped", "step": 7, "signal": "SIGUSR1"}


def state(*told: dict, exit_code: int | None = 1) -> RunState:
    journal = "".join(json.dumps({"time_s": 1.0, **event}) + "\n" for event in told)
    facts = {"run_id": SPEC.run_id, "config": SPEC.to_json(), "exit_code": exit_code, "alive": False, "launched": True,
             "stop_requested": False, "journal_head": journal, "journal_tail": journal, "log_tail": ""}
    view = runs._view("lab", facts)
    assert (view.step, view.last_checkpoint) == (7, "step_000007")
    return view.state


@pytest.mark.parametrize(("told", "expected"), [
    ((LAUNCHED, STARTED, STEP, SAVED), RunState.FAILED),
    ((LAUNCHED, STARTED, STEP, SAVED, STOPPED), RunState.STOPPED),
    ((LAUNCHED, STARTED, STEP, SAVED, STOPPED, LAUNCHED), RunState.FAILED),  # the next launch ended otherwise
    ((STARTED, STEP, SAVED, STOPPED, STARTED, STEP), RunState.FAILED)])  # likewise, started by hand
def test_a_signal_stops_a_run_and_every_other_end_fails_it(told, expected):
    assert state(*told) is expected
