"""MD5 sums that are remembered: with the transfers, and only as long as a file is what it was."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from rdtops.hostlib import digests
from rdtops.porter.file_digests import CACHE, Digests


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache" / "digests.jsonl")


def old_file(path, content=b"one"):
    path.write_bytes(content)
    os.utime(path, (1_000_000, 1_000_000))
    return path


def test_a_known_file_is_not_read_again_until_it_changes(tmp_path, cache, monkeypatch) -> None:
    file = old_file(tmp_path / "ä b.hdf5")
    assert digests.remembered([file], cache) == {file: hashlib.md5(b"one").hexdigest()}
    with monkeypatch.context() as patch:
        patch.setattr(digests, "md5_of", lambda path: pytest.fail(f"{path} was read"))
        assert digests.remembered([file], cache) == {file: hashlib.md5(b"one").hexdigest()}
    file.write_bytes(b"two")
    assert digests.remembered([file], cache) == {file: hashlib.md5(b"two").hexdigest()}


def test_it_is_the_cache_of_the_transfers_both_ways(tmp_path, cache, monkeypatch) -> None:
    assert digests.CACHE == CACHE
    first, second = old_file(tmp_path / "a"), old_file(tmp_path / "b", b"two")
    theirs = Digests(cache)
    md5 = theirs.of(os.fsencode(first), 3)
    theirs.save()
    digests.remembered([second], cache)
    assert Digests(cache).known(os.fsencode(second), 3) == hashlib.md5(b"two").hexdigest()
    monkeypatch.setattr(digests, "md5_of", lambda path: pytest.fail(f"{path} was read"))
    assert digests.remembered([first], cache) == {first: md5}


def test_a_young_file_and_a_broken_cache_cost_time_and_no_more(tmp_path, cache) -> None:
    young = tmp_path / "young"
    young.write_bytes(b"one")
    old = old_file(tmp_path / "old")
    digests.remembered([old], cache)
    with Path(cache).open("a") as file:
        file.write('["cut sho\n')
    assert set(digests.remembered([young, old], cache)) == {young, old}
    with Path(cache).open() as file:
        assert [json.loads(line)[0] for line in file.readlines()[:1]] == [str(old)]
    assert digests.remembered([old], "/proc/nowhere/digests.jsonl") == {old: hashlib.md5(b"one").hexdigest()}
