"""Transfers without SSH: the pure plan, the porter on local folders, and both sides talking over a local process."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdtops.errors import CommandFailed, ConnectionLost, DigestMismatch, DiskFull, TransferError
from rdtops.porter.entries import Entry, Problem, place
from rdtops.porter.file_digests import CACHE, Digests
from rdtops.porter.listing import digested, scan
from rdtops.porter.parts import PART, part_name
from rdtops.porter.receiver import commit
from rdtops.porter.target_lock import Lock
from rdtops.porter.wire import Heartbeat, Wire
from rdtops.ssh import bundle
from rdtops.ssh.display import size_words
from rdtops.transfer import transfer
from rdtops.transfer.transfer import TransferProgress, plan_download, plan_upload
from rdtops.transfer.transfer_plan import Item, Plan, TargetState, plan_items

SIDES = ("locally", "on the host")
MB = 1_000_000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both sides keep their digests below ~."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def file_entry(path: str, content: bytes = b"content", **changes: Any) -> Entry:
    return Entry(path, "file", len(content), md5(content), 1, False)._replace(**changes)


# --- the plan ---

def only(entry: Entry, **survey: Any) -> Item:
    [item] = plan_items([entry], TargetState(**survey), "model.bin", SIDES)
    return item


def test_a_missing_file_is_sent() -> None:
    item = only(file_entry("a/b"))
    assert (item.action, item.reason) == ("send", "missing on the host")


def test_the_same_digest_is_skipped_whatever_the_time() -> None:
    item = only(file_entry("a"), there={"a": file_entry("a", mtime_ns=99)})
    assert item.action == "skip"
    assert item.reason.startswith("same MD5")


def test_a_difference_of_content_shows_both_digests() -> None:
    item = only(file_entry("a", b"one"), there={"a": file_entry("a", b"two")})
    assert (item.action, item.reason) == ("send", "differs (MD5 f97c.. locally, b8a9.. on the host)")


def test_a_difference_of_size_shows_both_sizes() -> None:
    item = only(file_entry("a", b"12345"), there={"a": file_entry("a", b"123")})
    assert item.reason == "differs (5 bytes locally, 3 on the host)"


def test_a_begun_file_is_resumed_and_counts_only_its_rest() -> None:
    entry = file_entry("d/a", size=100 * MB)
    part = "d/" + part_name("d/a", entry.size, entry.mtime_ns)
    items = plan_items([entry], TargetState(parts={part: 40 * MB}), "", SIDES)
    assert (items[0].action, items[0].reason) == ("resume", "resumes, 40 of 100 MB are on the host")
    assert Plan("s", "t", items, "up").bytes_to_send == 60 * MB


def test_a_part_of_another_version_is_not_resumed() -> None:
    entry = file_entry("a", size=100 * MB)
    part = part_name("a", entry.size, entry.mtime_ns - 1)
    assert only(entry, parts={part: 40 * MB}).action == "send"


def test_a_file_of_the_basis_is_copied_there() -> None:
    item = only(file_entry("a"), basis={md5(b"content"): "/releases/1/old name"})
    assert (item.action, item.origin) == ("copy", "/releases/1/old name")
    assert item.reason == "missing on the host, same MD5 as /releases/1/old name"


def test_a_folder_in_the_way_is_refused() -> None:
    with pytest.raises(TransferError, match="a is a file locally and a folder on the host"):
        only(file_entry("a"), there={"a": Entry("a", "folder", -1, "", 0, False)})


def test_a_root_that_is_a_file_is_called_by_its_name() -> None:
    assert only(file_entry("")).path == "model.bin"


def test_a_lost_executable_bit_is_a_difference() -> None:
    item = only(file_entry("a", executable=True), there={"a": file_entry("a")})
    assert (item.action, item.reason) == ("send", "same MD5, but executable only locally")


@pytest.mark.parametrize(("count", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_600, "1 MB"),
                                              (1_500_000_000, "1.5 GB"), (10**30, "1e+12 EB")])
def test_sizes_in_words(count: int, words: str) -> None:
    assert size_words(count) == words


# --- the porter on local folders ---

def test_a_scan_lists_files_and_inner_links_and_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.sh").write_text("x")
    (tmp_path / "d" / "run.sh").chmod(0o755)
    (tmp_path / "d" / "up").symlink_to("../d/run.sh")
    (tmp_path / ".rdtops-part-1-2").write_text("a beginning")
    found = list(scan(str(tmp_path)))
    assert [(e.path, e.kind, e.executable) for e in found if not e.path.startswith("home")] == [
        ("d/run.sh", "file", True), ("d/up", "link", False)]


@pytest.mark.parametrize("link", ["/etc/passwd", "..", "../x", "d/../../x"])
def test_a_link_that_leads_out_is_refused_by_name(tmp_path: Path, link: str) -> None:
    (tmp_path / "leads out").symlink_to(link)
    with pytest.raises(Problem, match=r"leads out: it is a link to .*, which is outside of the folder"):
        list(scan(str(tmp_path)))


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Problem, match="fifo: it is neither a file"):
        list(scan(str(tmp_path)))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", ".", "a/", "a\0b"])
def test_a_path_of_the_other_side_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(Problem, match="not a path below"):
        place("/root", path)


def old_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, (1000, 1000))
    return path


def altered(path: Path, content: bytes) -> None:
    """Other content of the same size, time of content and inode."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def identity_of(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def test_the_cache_is_trusted_until_told_not_to(tmp_path: Path) -> None:
    file, cache = old_file(tmp_path / "f", b"two"), tmp_path / "cache"
    cache.write_text(json.dumps([str(file), identity_of(file.stat()), md5(b"one")]))  # as if a bit turned on the disk
    assert Digests(str(cache)).of(bytes(file), 3) == md5(b"one")
    assert Digests(str(cache), trust=False).of(bytes(file), 3) == md5(b"two")


def test_a_time_that_was_set_back_deceives_nobody(tmp_path: Path) -> None:
    file, cache = old_file(tmp_path / "f", b"one"), str(tmp_path / "cache")
    digests = Digests(cache)
    digests.of(bytes(file), 3)
    digests.save()
    assert Digests(cache).known(bytes(file), 3) == md5(b"one")
    altered(file, b"two")
    assert Digests(cache).of(bytes(file), 3) == md5(b"two")


def test_a_young_file_is_not_cached(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"one")
    digests = Digests(str(tmp_path / "cache"))
    digests.of(bytes(tmp_path / "f"), 3)
    digests.save()
    assert not (tmp_path / "cache").exists()


def test_a_read_only_cache_is_not_written(tmp_path: Path) -> None:
    digests = Digests(str(tmp_path / "cache"), read_only=True)
    digests.of(bytes(old_file(tmp_path / "f", b"one")), 3)
    digests.save()
    assert not (tmp_path / "cache").exists()


def test_a_torn_row_of_the_cache_is_passed_over(tmp_path: Path) -> None:
    file = old_file(tmp_path / "f", b"one")
    status = file.stat()
    row = json.dumps([str(file), identity_of(status), "0" * 32])
    (tmp_path / "cache").write_text(row + '\n["/x",[1,2')
    assert Digests(str(tmp_path / "cache")).of(bytes(file), 3) == "0" * 32


def test_a_log_that_grows_is_what_it_was(tmp_path: Path) -> None:
    log = old_file(tmp_path / "log", b"one")
    [entry] = scan(str(log))
    log.write_bytes(b"one, two")
    assert digested(str(log), entry, Digests()).md5 == md5(b"one")


def test_a_file_that_shrinks_has_changed(tmp_path: Path) -> None:
    file = old_file(tmp_path / "f", b"one")
    [entry] = scan(str(file))
    file.write_bytes(b"o")
    with pytest.raises(Problem, match="changed while it was read"):
        digested(str(file), entry, Digests())


def test_a_commit_checks_and_renames(tmp_path: Path) -> None:
    folder, final = tmp_path / "incoming", tmp_path / "releases" / "1"
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    row = {"path": "a", "size_bytes": 3, "md5": md5(b"two")}
    with pytest.raises(Problem, match="MD5"):
        commit(str(folder), str(final), [row], Digests())
    with pytest.raises(Problem, match="missing"):
        commit(str(folder), str(final), [{**row, "path": "b"}], Digests())
    assert not final.exists()
    commit(str(folder), str(final), [{**row, "md5": md5(b"one")}], Digests())
    assert (final / "a").read_bytes() == b"one"
    assert not folder.exists()


def test_a_lock_excludes_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Lock(str(target)), pytest.raises(Problem, match="another transfer"), Lock(str(target)):
        pass
    with Lock(str(target)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


# --- both sides over a local process ---

@dataclass
class FakeHost:
    name: str = "a800"


class LocalConnection:
    """Answers like a Connection whose host is this machine: every far side is a process of its own."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.logs_in_alone = False
        self.streams: list[LocalStream] = []
        self.sessions = 0

    def absolute(self, path: str) -> str:
        return path

    def far(self, program: Any, request: dict[str, Any], **_: float) -> LocalStream:
        self.sessions += 1
        stream = LocalStream(request["do"])
        stream.write(bundle.packed(program) + json.dumps(request).encode() + b"\n")
        self.streams.append(stream)
        return stream

    def ping(self, _: float) -> float:
        return 0.0

    def close(self) -> None:
        for stream in self.streams:
            stream.process.kill()


class LocalStream:
    def __init__(self, does: str) -> None:
        self.does = does
        self.process = subprocess.Popen([sys.executable, "-c", bundle.READER], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, bufsize=0)
        self.wire = Wire(lambda size: self.read(size) or self.read_exactly(1), self.write, self.readable)

    def __enter__(self) -> LocalStream:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:  # it writes, and nobody reads any more
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def write(self, content: bytes | memoryview) -> None:
        try:
            view = memoryview(content)
            while view:
                view = view[self.process.stdin.write(view):]
        except (OSError, ValueError) as error:
            raise self._ended() from error

    def read(self, size: int) -> bytes:
        try:
            return self.process.stdout.read(min(size, 1 << 16))
        except ValueError as error:
            raise self._ended() from error

    def read_exactly(self, _: int) -> bytes:
        raise self._ended()

    def readable(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def _ended(self) -> CommandFailed | ConnectionLost:
        code = self.process.wait(10)
        return ConnectionLost("cut") if code < 0 else CommandFailed(f"exit {code}")


@pytest.fixture
def connection() -> Any:
    return LocalConnection()


def upload(connection: Any, source: Path, target: Path, progress: Any = None, **plan: Any) -> transfer.Outcome:
    return transfer.upload(connection, plan_upload(connection, source, str(target), **plan), progress)


def download(connection: Any, source: Path, target: Path, progress: Any = None, **plan: Any) -> transfer.Outcome:
    return transfer.download(connection, plan_download(connection, str(source), target, **plan), progress)


def contents(folder: Path) -> dict[bytes, bytes | str]:
    return {bytes(path.relative_to(folder)): f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
            for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def tree(folder: Path, files: dict[bytes, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


NAMES = st.binary(min_size=1, max_size=30).map(lambda n: n.translate(None, b"/\0")).filter(
    lambda n: n not in (b"", b".", b"..") and not n.startswith(b".rdtops-"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(NAMES, st.binary(max_size=200), min_size=1, max_size=20))
def test_any_name_goes_there_and_back(tmp_path_factory: pytest.TempPathFactory, connection: Any,
                                      files: dict[bytes, bytes]) -> None:
    base = tmp_path_factory.mktemp("names")
    source = tree(base / "source", {b"sub/" + name: content for name, content in files.items()} | files)
    upload(connection, source, base / "there")
    download(connection, base / "there", base / "back")
    assert contents(source) == contents(base / "there") == contents(base / "back")
    assert upload(connection, source, base / "there").sent_files == 0


def test_modes_times_and_empty_files_are_kept(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"bin/run": b"#!", b"empty": b""})
    (source / "bin" / "run").chmod(0o755)
    os.utime(source / "empty", ns=(1, 123_456_789))
    for move, target in ((upload, tmp_path / "up"), (download, tmp_path / "down")):
        move(connection, source, target)
        assert contents(target) == contents(source)
        assert os.access(target / "bin" / "run", os.X_OK)
        assert not (target / "empty").stat().st_mode & 0o111
        assert (target / "empty").stat().st_mtime_ns == 123_456_789


def test_links_go_up_as_links(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"bin/run": b"#!"})
    (source / "link").symlink_to("bin/run")
    upload(connection, source, tmp_path / "there")
    assert contents(tmp_path / "there") == contents(source)
    assert upload(connection, source, tmp_path / "there").sent_files == 0


def test_a_link_that_was_asked_for_comes_as_what_it_leads_to(tmp_path: Path, connection: Any) -> None:
    """Clusters move a log or a folder to scratch and leave a link behind."""
    run = tree(tmp_path / "run", {b"journal.jsonl": b"{}"})
    tree(tmp_path / "scratch", {b"train.log": b"step 1", b"eval/one/report.json": b"[]"})
    (run / "train.log").symlink_to(tmp_path / "scratch" / "train.log")
    (run / "eval").symlink_to("../scratch/eval")
    download(connection, run, tmp_path / "here", files=["train.log", "journal.jsonl", "eval/one/report.json"])
    download(connection, run, tmp_path / "here", files=["eval"])
    assert contents(tmp_path / "here") == {b"train.log": b"step 1", b"journal.jsonl": b"{}",
                                           b"eval/one/report.json": b"[]"}


def test_a_link_in_a_folder_is_refused_before_anything_comes(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"a": b"1", b"d/b": b"2"})
    (source / "d" / "link").symlink_to("b")
    with pytest.raises(TransferError, match=r"a800: .*/source/d/link: it is a link to b, and a download") as refused:
        plan_download(connection, str(source), tmp_path / "here")
    assert refused.value.remedy.startswith("cp -rL ")
    assert not (tmp_path / "here").exists()


def test_what_only_the_target_has_stays(tmp_path: Path, connection: Any) -> None:
    source, target = tree(tmp_path / "source", {b"a": b"new"}), tree(tmp_path / "target", {b"a": b"old", b"mine": b"1"})
    upload(connection, source, target)
    assert contents(target) == {b"a": b"new", b"mine": b"1"}


def test_an_unchanged_folder_opens_no_session_to_send(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"a": b"1"})
    upload(connection, source, tmp_path / "there")
    plan = plan_upload(connection, source, str(tmp_path / "there"))
    before = connection.sessions
    outcome = transfer.upload(connection, plan)
    assert (outcome.sent_bytes, outcome.skipped_files, connection.sessions) == (0, 1, before)


def test_a_single_file_gets_its_new_name(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"a": b"1"}) / "a"
    outcome = upload(connection, source, tmp_path / "there" / "b")
    download(connection, tmp_path / "there" / "b", tmp_path / "c")
    assert (outcome.sent_files, outcome.sent_bytes) == (1, 1)
    assert (tmp_path / "there" / "b").read_bytes() == (tmp_path / "c").read_bytes() == b"1"


def test_only_the_named_files_go(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"a": b"1", b"b": b"2", b"d/c": b"3", b"d/e": b"4"})
    upload(connection, source, tmp_path / "there", files=["a", "d/"])
    assert set(contents(tmp_path / "there")) == {b"a", b"d/c", b"d/e"}


def test_the_previous_release_is_copied_and_not_sent(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"same": b"1" * 1000, b"moved/here": b"2" * 1000, b"new": b"3"})
    tree(tmp_path / "1", {b"same": b"1" * 1000, b"elsewhere": b"2" * 1000})
    outcome = upload(connection, source, tmp_path / "2", basis=str(tmp_path / "1"))
    assert (outcome.copied_files, outcome.sent_files, outcome.sent_bytes) == (2, 1, 1)
    assert contents(tmp_path / "2") == contents(source)


def test_a_basis_that_is_not_what_it_was_is_sent_instead(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"a": b"1" * 1000})
    basis = old_file(tree(tmp_path / "1", {}) / "a", b"1" * 1000)
    plan = plan_upload(connection, source, str(tmp_path / "2"), basis=str(tmp_path / "1"))
    altered(basis, b"x" * 1000)
    outcome = transfer.upload(connection, plan)
    assert (outcome.copied_files, outcome.sent_bytes) == (0, 1000)
    assert contents(tmp_path / "2") == contents(source)


def test_a_time_set_back_is_found_and_a_bit_that_turned_by_a_full_look(tmp_path: Path, connection: Any) -> None:
    source = tree(tmp_path / "source", {b"a": b"good"})
    upload(connection, source, tmp_path / "there")
    assert plan_upload(connection, source, str(tmp_path / "there")).items[0].action == "skip"
    altered(tmp_path / "there" / "a", b"evil")
    assert plan_upload(connection, source, str(tmp_path / "there")).items[0].action == "send"
    believed(tmp_path / "there" / "a", md5(b"good"))
    assert plan_upload(connection, source, str(tmp_path / "there")).items[0].action == "skip"
    assert plan_upload(connection, source, str(tmp_path / "there"), verify="full").items[0].action == "send"


def believed(path: Path, digest: str) -> None:
    """As if its content had changed on the disk and no kernel knew."""
    with Path(CACHE).expanduser().open("a") as cache:
        cache.write(json.dumps([str(path), identity_of(path.stat()), digest]) + "\n")


def big(path: Path, size: int = 24 << 20) -> Path:
    path.write_bytes(os.urandom(1 << 20) * (size >> 20))
    return path


def kill_at(connection: Any, count: int) -> Callable[[TransferProgress], None]:
    def watch(progress: TransferProgress) -> None:
        if progress.bytes_done >= count:
            connection.close()
    return watch


@pytest.mark.parametrize("move", [upload, download])
def test_a_killed_far_side_leaves_a_part_that_is_resumed(tmp_path: Path, connection: Any, move: Any) -> None:
    source, folder = big(tmp_path / "big"), tmp_path / "there"
    with pytest.raises(ConnectionLost):
        move(connection, source, folder / "big", kill_at(connection, 12 << 20))
    [part] = folder.glob(PART + "*")
    assert not (folder / "big").exists()
    begun = part.stat().st_size
    assert begun >= 1 << 20
    outcome = move(connection, source, folder / "big")
    assert outcome.sent_bytes == (24 << 20) - begun
    assert (folder / "big").read_bytes() == source.read_bytes()
    assert [p.name for p in folder.iterdir()] == ["big"]


def test_a_spoilt_part_is_found_in_the_end_and_begun_anew(tmp_path: Path, connection: Any) -> None:
    source = big(tmp_path / "big", 4 << 20)
    plan = plan_upload(connection, source, str(tmp_path / "there"))
    entry = plan.items[0].entry
    (tmp_path / part_name("there", entry.size, entry.mtime_ns)).write_bytes(b"x" * (2 << 20))
    outcome = upload(connection, source, tmp_path / "there")
    assert outcome.sent_bytes == 6 << 20  # the rest, and then all of it
    assert (tmp_path / "there").read_bytes() == source.read_bytes()


def test_a_part_of_an_older_version_is_swept(tmp_path: Path, connection: Any) -> None:
    source, there = tree(tmp_path / "source", {b"a": b"new"}), tree(tmp_path / "there", {})
    (there / part_name("a", 9, 1)).write_bytes(b"beginning")
    (there / part_name("another", 9, 1)).write_bytes(b"beginning")
    upload(connection, source, there)
    assert sorted(p.name[:13] for p in there.iterdir()) == [".rdtops-part-", "a"]


@pytest.mark.parametrize("move", [upload, download])
def test_a_source_that_changes_under_way_is_refused(tmp_path: Path, connection: Any, move: Any) -> None:
    source = big(tmp_path / "big", 80 << 20)

    def meddle(progress: TransferProgress) -> None:
        if progress.bytes_done < 8 << 20:
            with source.open("r+b") as file:
                file.write(os.urandom(16))

    with pytest.raises(TransferError, match=r"changed") as caught:
        move(connection, source, tmp_path / "there" / "big", meddle)
    assert str(source) in caught.value.message
    assert list((tmp_path / "there").iterdir()) == []


def test_a_log_that_grows_between_plan_and_download_arrives_as_planned(tmp_path: Path, connection: Any) -> None:
    log = old_file(tmp_path / "log", b"one\n")
    plan = plan_download(connection, str(log), tmp_path / "copy")
    with log.open("ab") as file:
        file.write(b"two\n")
    transfer.download(connection, plan)
    assert (tmp_path / "copy").read_bytes() == b"one\n"


def test_bytes_altered_on_the_way_are_a_digest_mismatch(tmp_path: Path, connection: Any,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    source = big(tmp_path / "big", 2 << 20)
    honest = LocalStream.write

    def flip(stream: LocalStream, content: bytes | memoryview) -> None:
        honest(stream, bytes(content[:-1]) + b"!" if len(content) > 1 << 19 else content)

    monkeypatch.setattr(LocalStream, "write", flip)
    with pytest.raises(DigestMismatch, match=r"a800: .*there/big: its MD5 is .* after the transfer"):
        upload(connection, source, tmp_path / "there" / "big")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_before_anything_is_sent(tmp_path: Path, connection: Any) -> None:
    source = tmp_path / "huge"
    source.write_bytes(b"in truth it is small")
    plan = plan_upload(connection, source, str(tmp_path / "there"))
    item = plan.items[0]
    huge = Plan(plan.source, plan.target, (Item(
        item.path, 1 << 60, item.md5, "send", item.reason, item.entry),), "up")
    with pytest.raises(DiskFull, match=r"a800: .*there: there is not enough space on /.*: .* more are needed") as full:
        transfer.upload(connection, huge)
    assert full.value.remedy.startswith("df -h ")


def test_two_transfers_to_one_target_exclude_each_other(tmp_path: Path, connection: Any) -> None:
    source = big(tmp_path / "big")
    said: list[TransferError] = []

    def second(progress: TransferProgress) -> None:
        if not said:
            with pytest.raises(TransferError, match="another transfer to it is running") as caught:
                upload(LocalConnection(), source, tmp_path / "there")
            said.append(caught.value)

    upload(connection, source, tmp_path / "there", second)
    assert said
    assert (tmp_path / "there").read_bytes() == source.read_bytes()


def test_a_link_of_the_target_is_not_followed_out(tmp_path: Path, connection: Any) -> None:
    source, outside = tree(tmp_path / "source", {b"d/a": b"1"}), tree(tmp_path / "outside", {})
    tree(tmp_path / "there", {})
    (tmp_path / "there" / "d").symlink_to(outside)
    with pytest.raises(TransferError, match="a link that leads out of"):
        upload(connection, source, tmp_path / "there")
    assert list(outside.iterdir()) == []


def test_no_folder_is_made_behind_a_link_that_leads_out(tmp_path: Path, connection: Any) -> None:
    source, outside = tree(tmp_path / "source", {b"d/new/a": b"1"}), tree(tmp_path / "outside", {})
    tree(tmp_path / "there", {})
    (tmp_path / "there" / "d").symlink_to(outside)
    for move in (upload, download):
        with pytest.raises(TransferError, match="a link that leads out of"):
            move(connection, source, tmp_path / "there")
        assert list(outside.iterdir()) == []


def test_a_link_of_the_target_is_replaced_and_never_written_through(tmp_path: Path, connection: Any) -> None:
    source, precious = tree(tmp_path / "source", {b"a": b"new"}), tmp_path / "precious"
    precious.write_bytes(b"mine")
    for move, target in ((upload, tmp_path / "up"), (download, tmp_path / "down")):
        tree(target, {})
        (target / "a").symlink_to(precious)
        move(connection, source, target)
        assert contents(target) == {b"a": b"new"}
        assert precious.read_bytes() == b"mine"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path, connection: Any) -> None:
    source, there = tree(tmp_path / "source", {b"d/a": b"1"}), tree(tmp_path / "there", {b"d": b"a file"})
    with pytest.raises(TransferError, match=r"there/d in the target is a file, not a folder"):
        upload(connection, source, there)


def test_what_does_not_exist_is_named_with_its_side(tmp_path: Path, connection: Any) -> None:
    with pytest.raises(TransferError, match=r"this machine: .*nix: no such file or folder"):
        plan_upload(connection, tmp_path / "nix", str(tmp_path))
    with pytest.raises(TransferError, match=r"a800: .*nix: no such file or folder"):
        plan_download(connection, str(tmp_path / "nix"), tmp_path)


def test_progress_ends_with_everything_done(tmp_path: Path, connection: Any) -> None:
    seen: list[TransferProgress] = []
    upload(connection, tree(tmp_path / "source", {b"a": b"12", b"b": b"345"}), tmp_path / "there", seen.append)
    assert (seen[-1].bytes_done, seen[-1].bytes_total, seen[-1].files_done, seen[-1].files_total) == (5, 5, 2, 2)
    assert all(a.bytes_done <= b.bytes_done for a, b in itertools.pairwise(seen))


def test_a_wire_carries_messages_bytes_and_beats() -> None:
    near, far = socket.socketpair()
    with near, far:
        sender, receiver = Wire(near.recv, near.sendall), Wire(far.recv, far.sendall)
        block = os.urandom(3 << 20)

        def send() -> None:
            sender.say({"from": 0})
            sender.beat()
            sender.give(block)
            sender.say({"error": "os", "path": "p", "reason": "why"})
            sender.flush()

        thread = threading.Thread(target=send)
        thread.start()
        assert receiver.hear() == {"from": 0}
        assert b"".join(receiver.pieces(receiver.hear()["bytes"])) == block
        with pytest.raises(Problem, match="p: why"):
            receiver.hear()
        thread.join()


def test_a_host_that_prints_a_greeting_is_told_from_the_porter() -> None:
    greeting = iter([b"Welcome to the cluster!\n"])
    with pytest.raises(Problem, match="not a message of rdtops: b'Welcome to the cluster!'"):
        Wire(lambda _: next(greeting), len).hear()


def test_a_heartbeat_ends_the_wait_for_a_silent_side() -> None:
    near, far = socket.socketpair()
    with near, far:
        wire = Wire(near.recv, near.sendall)
        with pytest.raises(EOFError), Heartbeat(wire, lambda: near.shutdown(socket.SHUT_RDWR), idle_s=0.2):
            wire.hear()
