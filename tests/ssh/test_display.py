"""Text of other machines: what a terminal would obey is escaped, everything else stays as it is."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.ssh.display import json_text, log_text, printable, shown

OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                      max_leaves=8)


def test_exactly_what_unicode_calls_control_format_surrogate_or_separator_is_escaped():
    kept = {c for c in map(chr, range(sys.maxunicode + 1)) if printable(c) == c}
    obeyed = {c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in OBEYED}
    assert obeyed & kept == {"\n", "\t", *JOINERS}
    others = {c for c in map(chr, range(sys.maxunicode + 1)) if c not in kept} - obeyed
    assert {unicodedata.category(c) for c in others} == {"Cn"}  # blocks that are reserved for such


@pytest.mark.parametrize("text", ["失败：显存不足\u3000（第 3 步）", "e\u0301 ñ", "👩\u200d💻 👍🏽 ❤\ufe0f", "a\tb\nc",
                                  "می\u200cخواهم", "100 % [bold] \\x1b"])
def test_every_script_stays_as_it_is(text):
    assert printable(text) == text


def test_a_name_is_one_line():
    assert shown("a\nb\tc\x1b]0;t\x07\udc80") == "a\\nb\\tc\\x1b]0;t\\x07\\udc80"


@pytest.mark.parametrize(("said", "read"), [
    ("\x1b[1;31mERROR\x1b[0m disk full", "ERROR disk full"),
    (" 10 %|#  |\r 20 %|## |\r\x1b[K100 %|###|\nend\r\n", " 10 %|#  |\n 20 %|## |\n100 %|###|\nend\n"),
    ("loss 0.1\n\r 10 %", "loss 0.1\n 10 %"),
    ("\x1b]52;c;cm0=\x07 \x1b[2J \x1b[1A \x9b31m \u202e", "\\x1b]52;c;cm0=\\x07 \\x1b[2J \\x1b[1A \\x9b31m \\u202e"),
    ("\x1b[3\x1b[0m1m", "\\x1b[31m")])
def test_a_log_loses_its_colours_and_a_progress_bar_becomes_lines(said, read):
    assert log_text(said) == read


@given(st.text())
def test_nothing_that_is_printable_is_changed_by_being_printed_again(text):
    for once in (printable(text), log_text(text), shown(text)):
        assert printable(once) == once


@given(values)
def test_json_has_the_same_value_and_nothing_that_a_terminal_obeys(value):
    text = json_text(value)
    assert printable(text) == text
    assert json.loads(text) == json.loads(json.dumps(value))


def test_json_of_chinese_is_legible():
    assert json_text({"说": "失败 \x9b \U000e0001"}) == '{\n "说": "失败 \\u009b \\udb40\\udc01"\n}'
