"""Whatever a JSON text holds, reading it gives values of the right kind or a ValueError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.hostlib import fields

VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                      lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "9" * 5000, b"\xff\xfe", "", "{", "nul"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011  # that it is nothing else is the point
        fields.loads(text)


@given(VALUES)
def test_a_value_is_of_its_kind_or_absent(value):
    whole, number = fields.whole(value), fields.number(value)
    assert whole is None or (type(whole) is int and abs(whole) <= fields.LARGEST)
    assert number is None or abs(number) < 1e301
    assert isinstance(fields.text(value), str)
    assert isinstance(fields.table(value), dict)
    assert all(isinstance(row, dict) for row in fields.rows(value))
    assert all(isinstance(word, str) for word in fields.words(value))


def test_numbers_that_are_none():
    for said in ("NaN", "Infinity", "-Infinity", "1e999", "true", '"3"', "null", "[3]"):
        assert fields.whole(json.loads(said)) is None
        assert fields.number(json.loads(said)) is None
    assert fields.whole(3.0) == 3
    assert fields.whole(1 << 63) is None
    assert fields.number(10**400) is None


@pytest.mark.parametrize("text", ["[" + "0," * fields.MOST_VALUES + "0]", b'{"a":[' + b"{}," * fields.MOST_VALUES])
def test_json_of_too_many_values_is_not_read(text):
    with pytest.raises(ValueError, match=f"more than {fields.MOST_VALUES} values"):
        fields.loads(text)
    assert len(fields.loads(json.dumps("x" * 2 * fields.MOST_VALUES))) == 2 * fields.MOST_VALUES
