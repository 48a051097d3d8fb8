"""What a run's Journal says of it, read from a recorded tail, and what its evaluations leave."""

import fcntl
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rdtops import answers
from rdtops.contract.config import preset
from rdtops.contract.journal import Event, Journal, parse
from rdtops.contract.run import RunSpec, RunState
from rdtops.hostlib import processes
from rdtops.on_host import detacher, run_reporter, tails
from rdtops.runs import evaluations, overview
from rdtops.views.run_output import RunOutput

SPEC = RunSpec("20261124-101530-tiny-3fa9", "lab", "2026-11-24T10:15:30Z", "/w", "/w/releases/a", "a", {},
               preset("tiny"))
LAUNCHED = {"kind": "launched", "launcher": "tmux", "pid": 1}
STARTED = {"kind": "started", "resumed_from_step": 0}
STEP = {"kind": "step", "step": 7, "loss": 0.5, "samples_per_s": 3.0, "eta_s": 9.0, "data_s": 0.1, "save_s": 0.0}
SAVED = {"kind": "checkpoint", "step": 7, "name": "step_000007", "size_bytes": 1, "digest": "", "heldout_loss": 0.4}
STOPPED = {"kind": "stopped", "step": 7, "signal": "SIGUSR1"}


def seen(facts: dict) -> overview.RunView:
    return overview.view("lab", answers.run("lab", facts))


def state(*told: dict, exit_code: int | None = 1) -> RunState:
    journal = "".join(json.dumps({"time_s": 1.0, **event}) + "\n" for event in told)
    facts = {"run_id": SPEC.run_id, "config": SPEC.to_json(), "exit_code": exit_code, "alive": False, "launched": True,
             "stop_requested": False, "journal_head": journal, "journal_tail": journal, "log_tail": ""}
    view = seen(facts)
    assert (view.step, view.last_checkpoint) == (7, "step_000007")
    return view.state


@pytest.mark.parametrize(("told", "expected"), [
    ((LAUNCHED, STARTED, STEP, SAVED), RunState.FAILED),
    ((LAUNCHED, STARTED, STEP, SAVED, STOPPED), RunState.STOPPED),
    ((LAUNCHED, STARTED, STEP, SAVED, STOPPED, LAUNCHED), RunState.FAILED),  # the next launch ended otherwise
    ((STARTED, STEP, SAVED, STOPPED, STARTED, STEP), RunState.FAILED)])  # likewise, started by hand
def test_a_signal_stops_a_run_and_every_other_end_fails_it(told, expected):
    assert state(*told) is expected


ATTEMPT = {"kind": "attempt", "attempt": 1}
SILENT = {"kind": "silent", "time_s": 1000.0, "attempt": 1, "silent_s": 120.0, "ranks": []}
HEARD = {"kind": "heard", "time_s": 1010.0, "attempt": 1}


@pytest.mark.parametrize(("told", "since_s"), [
    ((LAUNCHED, ATTEMPT), 0.0), ((LAUNCHED, ATTEMPT, SILENT), 880.0), ((LAUNCHED, ATTEMPT, SILENT, HEARD), 0.0),
    ((LAUNCHED, ATTEMPT, SILENT, STEP), 0.0), ((LAUNCHED, ATTEMPT, SILENT, {**ATTEMPT, "attempt": 2}), 0.0)])
def test_a_silence_before_the_first_step_is_shown_while_it_lasts(told, since_s):
    journal = "".join(json.dumps({"time_s": 1.0, **event}) + "\n" for event in told)
    view = seen({"run_id": SPEC.run_id, "config": SPEC.to_json(), "exit_code": None, "alive": True, "launched": True,
                 "stop_requested": False, "journal_head": journal, "journal_tail": journal, "log_tail": ""})
    assert view.silent_since_s == since_s
    shown = RunOutput(view).__rich__().plain
    assert ("and there is no step yet" in shown) == bool(since_s)
    assert (f"inv why --host lab --run {SPEC.run_id}" in shown) == bool(since_s)


def test_however_many_trials_an_evaluation_tells_the_run_stays_what_it_was(tmp_path):
    folder = tmp_path / "runs" / SPEC.run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(SPEC.to_json())
    (folder / "exit").write_text("0\n")
    journal = Journal(folder / "journal.jsonl")
    journal.append("step", step=7, loss=0.5)
    (before,) = run_reporter.list_runs(str(tmp_path))["runs"]
    trial = Event("trial", 1.0, {"name": "e", "task": "close_the_drawer" * 4, "trial": 7, "outcome": "failure"})
    with journal.path.open("a") as file:
        file.write((trial.to_line() + "\n") * 20_000)
    journal.append("eval_failed", name="e", error="no", remedy="")
    (after,) = run_reporter.list_runs(str(tmp_path))["runs"]
    assert journal.path.stat().st_size > 2 * run_reporter.TEXT_BYTES
    assert seen(after) == seen(before)
    assert (seen(after).step, seen(after).state) == (7, RunState.FINISHED)


@pytest.fixture
def evaluated(tmp_path) -> Path:
    """An evaluation's folder with one success, one trial that first was an error, and a torn line."""
    folder = tmp_path / "runs" / SPEC.run_id / "eval" / "step_000007-libero_90-12345678"
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text("{}")
    lines = [{"task": "a", "trial": 0, "outcome": "success"}, {"task": "a", "trial": 1, "outcome": "error"},
             {"task": "a", "trial": 1, "outcome": "failure"}]
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"task": "a", "tri')
    (folder / "report.json").write_text(json.dumps({"planned_trials": 3}))
    return folder


def view(tmp_path) -> evaluations.EvalView:
    (facts,) = run_reporter.evaluations(str(tmp_path), [SPEC.run_id, "another"])["evaluations"]
    (parsed,) = answers.evaluations("lab", {"evaluations": [facts]})
    return evaluations._view("lab", str(tmp_path), parsed)


def test_an_evaluation_is_what_its_files_say(evaluated, tmp_path):
    found = view(tmp_path)
    assert (found.outcomes, found.planned, found.ended_trials) == ({"success": 1, "failure": 1, "error": 0}, 3, 2)
    assert found.state is RunState.LOST  # it began, nobody is at work, and a trial is missing
    (evaluated / "report.json").write_text(json.dumps({"planned_trials": 2}))
    assert view(tmp_path).state is RunState.FINISHED  # by hand, without eval.sh and its exit code
    (evaluated / "exit").write_text("1\n")
    assert view(tmp_path).state is RunState.FAILED
    (evaluated / "stop").touch()
    assert view(tmp_path).state is RunState.STOPPED


def test_an_evaluation_that_holds_its_lock_is_running(evaluated, tmp_path):
    descriptor = os.open(evaluated / "lock", os.O_RDWR | os.O_CREAT)
    assert view(tmp_path).state is RunState.LOST
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert view(tmp_path).state is RunState.RUNNING
    os.close(descriptor)
    assert view(tmp_path).state is RunState.LOST


def test_a_run_whose_launch_script_was_killed_runs_while_any_process_of_it_lives(tmp_path):
    folder = tmp_path / "runs" / SPEC.run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(SPEC.to_json())
    (folder / "process").write_text("1 1 not-this-boot\n")

    def state_now() -> RunState:
        (found,) = run_reporter.list_runs(str(tmp_path))["runs"]
        return seen(found).state

    assert state_now() is RunState.LOST
    with subprocess.Popen(["sleep", "60"], env={**os.environ, "RDTOPS_RUN": SPEC.run_id}) as left:
        while left.pid not in processes.carrying(f"RDTOPS_RUN={SPEC.run_id}"):  # the kernel has set its environment
            time.sleep(0.01)
        assert state_now() is RunState.RUNNING
        left.kill()
    assert state_now() is RunState.LOST
    (folder / "supervisor").write_text(f"{processes.name_of(os.getpid())}\n")  # it writes how the run ends by itself
    assert state_now() is RunState.RUNNING


def test_a_run_with_a_fifo_for_a_journal_is_stopped_all_the_same(tmp_path):
    folder = tmp_path / "runs" / SPEC.run_id
    folder.mkdir(parents=True)
    os.mkfifo(folder / "journal.jsonl")
    (folder / "stop").mkdir()
    with subprocess.Popen(["sleep", "60"], env={**os.environ, "RDTOPS_RUN": SPEC.run_id}) as left:
        threading.Thread(target=left.wait, daemon=True).start()  # no zombie stays
        since_s = time.monotonic()
        assert detacher.stop(str(folder), f"RDTOPS_RUN={SPEC.run_id}", 2.0) == {"left": []}
        assert time.monotonic() - since_s < 10


def test_a_journal_with_a_line_without_measure_is_listed_within_seconds(tmp_path):
    folder = tmp_path / "runs" / SPEC.run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(SPEC.to_json())
    (folder / "exit").write_text("0\n")
    Journal(folder / "journal.jsonl").append("step", step=7, loss=0.5)
    with (folder / "journal.jsonl").open("a") as file:
        for _ in range(150):
            file.write("x" * 1_000_000)
        file.write("\n")
    Journal(folder / "journal.jsonl").append("heldout", step=7, loss=0.5)
    since_s = time.monotonic()
    (facts,) = run_reporter.list_runs(str(tmp_path))["runs"]
    assert (seen(facts).state, len(facts["journal_tail"]) < 1000) == (RunState.FINISHED, True)
    piece = {"lines": [], "cursor": [0, 0, ""], "more": True}
    told = []
    while piece["more"]:
        piece = run_reporter.piece(str(folder / "journal.jsonl"), piece["cursor"], 1 << 23, steps=2000)
        told += [event for _, line in piece["lines"] for event in parse(line.encode())[0]]
    assert [event.kind for event in told] == ["step", "warning", "heldout"]
    assert time.monotonic() - since_s < 10


def test_a_cursor_behind_a_line_that_was_shortened_is_found_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"kind": "step"}\n' + b"x" * (run_reporter.EVENT_BYTES + 1) + b"\n")
    behind, line = run_reporter.piece(str(path), [0, 0, ""], steps=10)["lines"][-1]
    cursor = [path.stat().st_ino, behind, tails.mark_of(line.encode())]
    assert tails.is_the_one(str(path), *cursor)
