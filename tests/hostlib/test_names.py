"""Names of another machine are one component of a known form, or an error that quotes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.hostlib import names

ESCAPES = ["../../plugins", "..", ".", "", "/etc/passwd", "a/../../b", "a//b", "a/./b", "x\0y", "x" * 256, "\ud800", 7,
           None, ["a"]]


@pytest.mark.parametrize("parse", [names.run_id, names.checkpoint_name, names.evaluation_name, names.component,
                                   names.relative_path])
@pytest.mark.parametrize("word", ESCAPES)
def test_what_leaves_its_folder_is_no_name(parse, word):
    with pytest.raises(names.BadName):
        parse(word)


def test_names_that_rdtops_gives_are_names():
    assert names.run_id("20261124-101530-tiny-3fa9")
    assert names.run_id("00000000-000000-evaluated-1f3a")
    assert names.step_of(names.checkpoint_name("step_002000")) == 2000
    assert names.evaluation_name("step_002000-libero_90-1f3a9c20")
    assert names.evaluation_name("checkpoint-30000-libero_90-1f3a9c20")
    assert names.relative_path("videos/close_the_drawer/trial_00.mp4")
    assert names.relative_path(os.fsdecode(b"\xb9" * 255))  # of another encoding, and no longer than a name may be


@pytest.mark.parametrize("word", ["20261124-101530-tiny-3fa9\n", "20261124-101530-tiny-3fa9.bak",
                                  "20261124-101530-T-3fa9", "../20261124-101530-tiny-3fa9"])
def test_a_run_id_is_matched_whole(word):
    assert not names.is_run_id(word)


@given(st.text() | st.binary().map(os.fsdecode))
def test_a_path_below_a_folder_stays_there(word):
    try:
        path = names.relative_path(word)
    except names.BadName:
        assert names.quoted(word).isprintable()
        return
    assert Path(os.path.normpath("/results/run" + "/" + path)).is_relative_to("/results/run")
    assert os.path.normpath(path) == path


@given(st.text(alphabet="ab./\\-_0123456789\n\x1b", max_size=40))
def test_what_is_a_component_has_no_other(word):
    for parse in (names.component, names.run_id, names.checkpoint_name, names.evaluation_name):
        try:
            assert Path(parse(word)).name == word
        except names.BadName:
            continue
