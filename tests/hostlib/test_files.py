"""A file is read when it is one, within bounds; it is written whole, beside its name and never through a link."""

from __future__ import annotations

import ast
import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.hostlib import dataset_files, files


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


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole(tmp_path):
    (tmp_path / "lines").write_bytes(b"one\n" + b"x" * 5000 + b"\ntwo\n" + b"y" * 30 + b"\ntorn")
    assert list(files.lines_of(tmp_path / "lines", 31)) == [b"one\n", b"x" * 31, b"two\n", b"y" * 30 + b"\n", b"torn"]


@given(st.binary(max_size=400), st.integers(1, 40))
def test_lines_are_those_of_the_file_each_cut_at_its_measure(tmp_path_factory, content, longest):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    assert list(files.lines_of(path, longest)) == [line[:longest] for line in content.splitlines(True)
                                                   ] or b"\r" in content


def test_a_line_is_appended_to_no_fifo(tmp_path):
    os.mkfifo(tmp_path / "journal.jsonl")
    with pytest.raises(OSError, match="not a regular file"):
        files.append_line(tmp_path / "journal.jsonl", "x")


def test_the_end_of_a_file_is_read_and_no_more(tmp_path):
    (tmp_path / "log").write_bytes(b"a" * 5000 + b"end")
    assert files.tail_of(tmp_path / "log", 5) == "aaend"
    assert files.tail_of(tmp_path / "none", 5) == ""


def test_what_another_program_writes_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "film.mp4").write_text("old")

    def broken() -> None:
        with files.replacing(tmp_path / "film.mp4") as part:
            Path(part).write_text("half")
            raise RuntimeError("its writer failed")

    with pytest.raises(RuntimeError, match="its writer failed"):
        broken()
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").read_text() == "old"
    with files.replacing(tmp_path / "film.mp4") as part:
        Path(part).write_text("new")
        assert (tmp_path / "film.mp4").read_text() == "old"
    assert (tmp_path / "film.mp4").read_text() == "new"


def test_what_gets_its_name_is_on_the_disk_before_and_the_name_after(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    files.write_whole(tmp_path / "state", "new")
    (part, *rest) = done
    assert (Path(part).parent, rest) == (tmp_path, ["replace", str(tmp_path)])
    done.clear()
    (tmp_path / "tree.tmp" / "below").mkdir(parents=True)
    (tmp_path / "tree.tmp" / "below" / "a").write_text("a")
    files.flush_below(tmp_path / "tree.tmp")
    files.put_in_place(tmp_path / "tree.tmp", tmp_path / "tree")
    assert {*done} == {str(tmp_path / "tree.tmp" / "below" / "a"), str(tmp_path / "tree.tmp" / "below"),
                       str(tmp_path / "tree.tmp"), "replace", str(tmp_path)}
    assert done[-2:] == ["replace", str(tmp_path)]


def test_a_folder_that_cannot_be_flushed_is_no_error_and_a_file_is(tmp_path, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refuse)
    files.flush(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        files.flush(tmp_path / "file")


def test_files_are_replaced_in_few_places():
    """Temp-and-rename anywhere else would forget the fsync, the link of that name, or the part that is left."""
    root = Path(files.__file__).parents[2]
    replacing = {file.relative_to(root).as_posix() for folder in ("rdtops", "plugins")
                 for file in (root / folder).rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))
                 if isinstance(node, ast.Attribute) and node.attr == "replace" and isinstance(node.value, ast.Name)
                 and node.value.id == "os"}
    assert replacing == {"rdtops/hostlib/files.py", "rdtops/porter/target.py"}  # the second: a batch of them


def test_the_files_of_a_tree_are_those_that_links_lead_to_as_well_each_once(tmp_path):
    elsewhere, data = tmp_path / "elsewhere", tmp_path / "data"
    for path in (elsewhere / "c.hdf5", data / "b" / "x.hdf5", data / "b-2" / "y.hdf5", data / "b" / "notes.txt",
                 data / "b" / ".rdtops-part-x.hdf5"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (data / "a").symlink_to(elsewhere)  # another disk
    (data / "again").symlink_to("b")  # what is in the tree already
    (data / "b" / "loop").symlink_to("..")
    (data / "l.hdf5").symlink_to(elsewhere / "c.hdf5")  # as the Hugging Face cache has them
    (data / "gone.hdf5").symlink_to("nowhere")
    os.mkfifo(data / "fifo.hdf5")
    assert dataset_files.demonstration_files(str(data)) == [  # in the order of Path
        "a/c.hdf5", "b/x.hdf5", "b-2/y.hdf5", "gone.hdf5", "l.hdf5"]
