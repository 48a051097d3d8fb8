"""A file is read when it is one, within bounds; it is written whole, beside its name and never through a link."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rdtops.contract import files


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "train.log")
    since_s = time.monotonic()
    assert files.text_of(tmp_path / "train.log") == ""
    with pytest.raises(OSError, match="not a regular file"):
        files.head_of(tmp_path / "train.log")
    assert time.monotonic() - since_s < 1


def test_a_device_is_not_replaced_by_a_file():
    with pytest.raises(OSError, match="is a device"):
        files.write_whole("/dev/null", "x")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("path", ["/dev/zero", "/proc", "/nowhere"])
def test_only_regular_files_are_read(path):
    assert files.text_of(path) == ""


def test_a_long_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "long").write_bytes(b"x" * 5000)
    assert len(files.text_of(tmp_path / "long", 1000)) == 1000


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "README.md").symlink_to("outside")
    files.write_whole(tmp_path / "README.md", "new")
    assert not (tmp_path / "README.md").is_symlink()
    assert ((tmp_path / "outside").read_text(), (tmp_path / "README.md").read_text()) == ("mine", "new")


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    (tmp_path / "state").write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        files.write_whole(tmp_path / "state", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").read_text() == "old"


def test_the_mode_is_the_one_asked_for(tmp_path):
    before = os.umask(0)
    try:
        files.write_whole(tmp_path / "token", "t", 0o600)
        files.write_whole(tmp_path / "plain", "p")
    finally:
        os.umask(before)
    assert [(tmp_path / n).stat().st_mode & 0o777 for n in ("token", "plain")] == [0o600, 0o644]
