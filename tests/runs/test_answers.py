"""Whatever a host answers, a name in it is of its form or the answer is refused; one run's nonsense is its own."""

from __future__ import annotations

import io
import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rdtops import answers
from rdtops.contract.config import preset
from rdtops.contract.journal import Event
from rdtops.contract.run import RunPaths, RunSpec, RunState
from rdtops.errors import RemoteError
from rdtops.hostlib import names
from rdtops.hostlib.names import BadName
from rdtops.runs import evaluations, overview
from rdtops.views.run_output import RunOutput

RUN = "20261124-101530-tiny-3fa9"
SPEC = RunSpec(names.run_id(RUN), "lab", "2026-11-24T10:15:30Z", "/w", "/w/releases/a", "a", {}, preset("tiny"))
PATHS = RunPaths("/w", RUN)
ESCAPES = ["../../plugins", "/etc", "..", "", ".", "a/b", 7, None, ["x"], "\x1b]52;c;eA==\x07", "x\0y"]
TEXT = st.text(st.characters(codec=None), max_size=40)  # lone surrogates too: JSON can say them
VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
                      max_leaves=6)
FACTS = {"run_id": RUN, "config": SPEC.to_json(), "exit_code": 0, "alive": False, "launched": True,
         "stop_requested": False, "journal_head": "", "journal_tail": "", "log_tail": "", "gpus": []}


@pytest.mark.parametrize("word", ESCAPES)
def test_an_answer_with_a_name_that_is_none_is_refused_with_the_host(word):
    good = {"name": "step_000010", "size_bytes": 1, "digest": "0" * 32}
    for parse in (lambda: answers.runs("a800", {"runs": [{**FACTS, "run_id": word}]}),
                  lambda: answers.checkpoints("a800", {"checkpoints": [{**good, "name": word}]}, PATHS),
                  lambda: answers.checkpoints("a800", {"checkpoints": [{**good, "digest": word}]}, PATHS),
                  lambda: answers.evaluations("a800", {"evaluations": [{"run_id": RUN, "name": word}]}),
                  lambda: answers.platform("a800", {"python": word, "machine": "x86_64", "glibc": "2.36"}),
                  lambda: answers.platform("a800", {"python": "3.11", "machine": word, "glibc": "2.36"}),
                  lambda: answers.run_id("a800", word)):
        with pytest.raises(RemoteError, match=r"^a800: unexpected answer: ") as refused:
            parse()
        assert refused.value.message.isprintable()


@pytest.mark.parametrize("word", ESCAPES)
def test_a_journal_names_no_file(word):
    with pytest.raises(BadName):
        answers.evaluation_event(Event("eval_finished", 1.0, {"name": word, "report": "x"}), PATHS)
    with pytest.raises(BadName):
        answers.checkpoint_event(Event("checkpoint", 1.0, {"name": word, "step": 3}), PATHS)


def test_where_files_lie_follows_from_their_names_and_not_from_what_is_said():
    told = answers.evaluation_event(Event("eval_finished", 1.0, {
        "name": "step_000010-libero_90-0a1b2c3d", "report": "../../../../plugins/report.json"}), PATHS)
    assert told.report == "/w/runs/20261124-101530-tiny-3fa9/eval/step_000010-libero_90-0a1b2c3d/report.json"
    (saved,), _ = answers.checkpoints("a800", {"checkpoints": [
        {"name": "step_000010", "path": "/etc", "step": 99, "size_bytes": 1, "digest": "0" * 32}]}, PATHS)
    assert (saved.path, saved.step) == (str(PATHS.checkpoints / "step_000010"), 10)


def test_a_state_of_digests_that_is_none_is_unverified():
    assert answers.digest_states({"states": {"step_000010": {"state": "\ud800", "wrong": 7}, "x": 5}}) == {
        "step_000010": ("unverified", ()), "x": ("unverified", ())}


def test_a_config_json_of_another_run_is_not_believed():
    view = overview.view("lab", answers.run("lab", {**FACTS, "run_id": "20261124-101530-tiny-0000"}))
    assert (view.spec, view.problem) == (None, f"its config.json is that of {RUN}")


def test_a_run_that_cannot_be_read_is_unknown_and_says_why():
    view = overview.view("lab", answers.run("lab", {"run_id": RUN, "problem": "PermissionError: journal.jsonl"}))
    assert (view.state, view.problem) == (RunState.UNKNOWN, "PermissionError: journal.jsonl")
    assert view.to_json()["problem"] == "PermissionError: journal.jsonl"
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(RunOutput(view))
    assert "cannot be read: PermissionError: journal.jsonl" in console.export_text()


@given(st.dictionaries(st.sampled_from([*FACTS, "problem"]), VALUES))
def test_facts_of_any_kind_make_a_run(changed):
    view = overview.view("lab", answers.run("lab", {**FACTS, **changed, "run_id": RUN}))
    assert view.run_id == RUN
    assert isinstance(view.to_json(), dict)
    assert view.end.error == str(view.end.error)


@given(TEXT | VALUES.map(repr))
def test_any_journal_makes_a_run(journal):
    lines = f'{{"kind": "step", "step": "x", "loss": [1]}}\n{{"kind": "checkpoint", "name": 7}}\n{journal}\n'
    assert overview.view("lab", answers.run("lab", {**FACTS, "journal_tail": lines, "journal_head": journal})).step == 0


@given(VALUES, VALUES)
def test_answers_of_any_kind_are_parsed_or_refused(answer, row):
    table = answer if isinstance(answer, dict) else {}
    for said in (table, {"runs": row}, {"runs": [row]}, {"checkpoints": [row], "unfinished": row}, {"gpus": [row]},
                 {"evaluations": [row]}, {"states": row}, {"ended": row}):
        for parse in (lambda s=said: answers.runs("h", s), lambda s=said: answers.gpus(s),
                      lambda s=said: answers.checkpoints("h", s, PATHS), lambda s=said: answers.evaluations("h", s),
                      lambda s=said: answers.digest_states(s), lambda s=said: answers.pids(s, "ended")):
            try:
                parse()
            except RemoteError:
                continue


@given(st.dictionaries(st.sampled_from(["planned_trials", "total", "tasks"]), VALUES), VALUES)
def test_a_report_of_any_kind_makes_an_evaluation(report, outcomes):
    (facts,) = answers.evaluations("h", {"evaluations": [{
        "run_id": RUN, "name": "step_000010-libero_90-0a1b2c3d", "report": json.dumps(report), "outcomes": outcomes}]})
    view = evaluations._view("h", "/w", facts)
    assert PurePosixPath(view.folder).is_relative_to("/w/runs")
    assert isinstance(view.to_json(), dict)
