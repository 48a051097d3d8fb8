"""What a file or a host says is parsed, or refused with the one error that the parser promises, whatever it is."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.contract.config import preset
from rdtops.contract.diagnosis import Evidence, diagnose
from rdtops.contract.evaluation import EvalSpec, Protocol
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError
from rdtops.hostlib import checkpoints, manifest
from rdtops.hostlib.fields import LARGEST, decimal
from rdtops.hostlib.manifest import FileDigest, Manifest
from rdtops.runs.poller import Cursor

SPEC = RunSpec("20261124-101530-tiny-3fa9", "a800", "now", "/w", "/w/r", "s", {"dataset": "/w/d"}, preset("tiny"))
EVALUATION = EvalSpec(SPEC.run_id, "a800", "now", "/w", "/w/r", "s", "/w/c", "", {}, "cpu", "no", Protocol())
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
DEEP = ["[" * 200_000, '{"train": ' * 100_000, "9" * 5000, "", "5", "[]", "{}", "null", '"x"']


def changed(data: st.DataObject, value: Any) -> Any:
    """The JSON value with one part of it, at any depth, replaced by another."""
    places = [(), *_places(value)]
    place, other = data.draw(st.sampled_from(places)), data.draw(JSON)
    if not place:
        return other
    inside = value
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = other
    return value


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in [(*at, key), *_places(part, (*at, key))]]


@pytest.mark.parametrize("parse", [RunSpec.from_json, EvalSpec.from_json])
@pytest.mark.parametrize("text", DEEP)
def test_what_is_no_table_is_a_config_error(parse, text):
    with pytest.raises(ConfigError):
        parse(text)


@given(st.data())
def test_a_run_has_values_of_their_kinds_or_is_refused(data):
    text = json.dumps(changed(data, json.loads(SPEC.to_json())))
    try:
        spec = RunSpec.from_json(text)
    except ConfigError:
        return
    assert spec.paths.root.parent.name == "runs"
    assert isinstance(spec.train.digest, str)
    assert RunSpec.from_json(spec.to_json()) == spec
    assert sum(len(word) for pair in spec.assets.items() for word in pair) >= 0
    assert isinstance(spec.train.max_steps, int)


@given(st.data())
def test_an_evaluation_has_values_of_their_kinds_or_is_refused(data):
    text = json.dumps(changed(data, json.loads(EVALUATION.to_json())))
    try:
        spec = EvalSpec.from_json(text)
    except ConfigError:
        return
    assert spec.paths.root.parent.name == "eval"
    assert isinstance(spec.protocol.trials, int)


SEALED = Manifest((FileDigest("a", 1, "0" * 32), FileDigest("ema/b", 2, "1" * 32)))


@given(st.data())
def test_a_manifest_names_files_inside_or_is_refused(data):
    text = json.dumps(changed(data, json.loads(SEALED.to_json())))
    try:
        found = Manifest.from_json(text)
    except ValueError:
        return
    assert found.digest == SEALED.digest  # which says nothing of sizes
    assert all(0 <= file.size_bytes <= LARGEST for file in found.files)


@pytest.mark.parametrize("path", ["../../../../etc/hostname", "/etc/hostname", "a/../../b", "a//b", ".", "", "a\0b"])
def test_a_manifest_that_names_a_file_elsewhere_is_none(path, tmp_path):
    escaping = Manifest((FileDigest(path, 1, "0" * 32),))
    (tmp_path / manifest.NAME).write_text(escaping.to_json())
    with pytest.raises(ValueError, match="is not a path below a folder"):
        manifest.stated(tmp_path)
    assert manifest.read(tmp_path) is None


def test_a_manifest_that_names_a_file_twice_is_none():
    twice = Manifest((FileDigest("a", 1, "0" * 32),) * 2)
    with pytest.raises(ValueError, match="twice"):
        Manifest.from_json(twice.to_json())


def test_a_checkpoint_is_a_folder_of_that_name_whose_files_have_their_sizes(tmp_path):
    for name in ("step_000002", "step_000010", "step_x", "..step_000004"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer.json").write_text('{"heldout_loss": NaN}' if name == "step_000010" else
                                                      '{"heldout_loss": 0.5}')
        manifest.seal(tmp_path / name)
    (tmp_path / "step_000006").mkdir()
    whole, others = checkpoints.listed(str(tmp_path))
    assert [(c["step"], c["heldout_loss"]) for c in whole] == [(2, 0.5), (10, None)]
    assert sorted(others) == ["..step_000004", "step_000006", "step_x"]
    assert checkpoints.listed(str(tmp_path / "nowhere")) == ([], [])


FACTS = {
    "run_id": SPEC.run_id, "config": SPEC.to_json(), "log": [[1, "one"]], "kernel": [[0, "Xid"]], "exit_code": 1,
    "journal": [[n, json.dumps({"time_s": 1.0 + n, **event})] for n, event in enumerate((
        {"kind": "started"}, {"kind": "step", "step": 1, "step_s": 1.0, "data_s": 0.5}, {"kind": "step", "step_s": 2.0},
        {"kind": "stuck", "silent_s": 5.0, "limit_s": 1.0, "ranks": [{"rank": 0, "pid": 1, "state": "T"}]},
        {"kind": "failed", "error": "x", "type": "DataError", "remedy": "inv train --resume RUN --set a=1"}))],
    "alive": True, "launched": True, "stop_requested": False, "same_boot": True, "oom_kills": 1, "now_s": 2000.0,
    "disk_free_bytes": 10**12, "disk_free_inodes": 10**6, "gpu_problem": "",
    "gpus": [{"index": "0", "used_mib": 1, "utilisation_percent": 1, "throttled": "hot", "others": [5]}],
    "ranks": [{"rank": 0, "pid": 1, "state": "T", "cpu_share": 0.5}, {"rank": 1, "pid": 2, "state": "R"}],
    "ended_by": {"cause": "killed", "summary": "s", "next": "n", "restart_in_s": 1.0, "evidence": ["e"]}}


@given(st.data(), st.booleans())
def test_whatever_a_host_says_of_a_run_has_a_diagnosis(data, alive):
    facts = json.loads(json.dumps({**FACTS, "alive": alive}))
    told = json.loads(facts["journal"][data.draw(st.integers(0, 4))][1])
    facts["journal"].append([9, json.dumps(changed(data, told))])
    told = changed(data, facts)
    found = diagnose(Evidence.of("a800", told if isinstance(told, dict) else {}))
    assert isinstance(found.summary, str)
    assert all(isinstance(line.text, str) for line in found.lines)


@given(JSON)
def test_a_cursor_is_one_or_a_value_error(value):
    try:
        found = Cursor.from_json(json.dumps(value))
    except ValueError:
        return
    assert min(found.inode, found.offset) >= 0
    assert Cursor.from_json(found.to_json()) == found


@pytest.mark.parametrize(("text", "code"), [
    ("0\n", 0), ("137\n", 137), ("-9", -9), ("", None), ("9" * 5000, None), ("²", None), ("1.0", None), ("0x1", None),
    ("--1", None), ("1 2", None), (random.Random(1).randbytes(60).decode("latin-1"), None)])
def test_an_exit_code_is_a_whole_number_or_not_known(text, code):
    assert decimal(text) == code
