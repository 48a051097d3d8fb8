"""Transfers over real SSH through the jump host: what is kept, refused and named when things go wrong."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rdtops.errors import ConnectionLost, DiskFull, TransferError
from rdtops.lab.site import JUMP, Lab
from rdtops.porter.parts import begun
from rdtops.porter.target_lock import LOCK
from rdtops.ssh import stream
from rdtops.ssh.connection import Connection
from rdtops.ssh.inventory import load
from rdtops.transfer import porter_session, transfer
from rdtops.transfer.transfer import Outcome, TransferProgress, plan_upload
from tests.lab.moves import MIB, download, random_file, upload

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("home")]

Move = Callable[..., Outcome]

SIZE = 48 * MIB
NASTY = [b"a b", b"it's \"quoted\"", b"two\nlines", b"-rf", b"$(touch x)", "é漢😀".encode(), b"\xff\xfe", b"*", b".dot",
         b"sub/deep/c", b"back\\slash"]


@pytest.fixture
def connection(lab_hosts: Path) -> Iterator[Connection]:
    with Connection(load(lab_hosts).host("lab")) as connection:
        yield connection


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return random_file(tmp_path / "big", SIZE)


def once_past(count: int, act: Callable[[], None]) -> transfer.Watcher:
    done: list[bool] = []

    def watch(progress: TransferProgress) -> None:
        if progress.bytes_done >= count and not done:
            done.append(True)
            act()
    return watch


def same(one: Path, other: Path) -> bool:
    differences = subprocess.run(["diff", "-r", "--no-dereference", one, other], capture_output=True, check=False)
    return differences.stdout + differences.stderr == b""


def test_nasty_names_go_there_and_back_and_a_second_call_moves_nothing(connection: Connection, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in NASTY:
        path = source / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name * 1000)
    (source / "empty").touch()
    (source / "run").write_text("#!")
    (source / "run").chmod(0o755)
    there, back = tmp_path / "there", tmp_path / "back"
    upload(connection, source, there)
    download(connection, there, back)
    assert same(source, there)
    assert same(source, back)
    assert os.access(back / "run", os.X_OK)
    again = upload(connection, source, there)
    assert (again.sent_files, again.sent_bytes, again.skipped_files) == (0, 0, len(NASTY) + 2)
    assert download(connection, there, back).sent_files == 0


def test_many_small_files_are_one_stream(connection: Connection, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(500):
        (source / str(number)).write_bytes(b"%d" % number * 1000)
    start_s = time.monotonic()
    assert upload(connection, source, tmp_path / "there").sent_files == 500
    assert time.monotonic() - start_s < 15  # without the stream 500 round trips and 1000 fsyncs one after the other
    assert same(source, tmp_path / "there")


def test_a_path_is_below_the_home_there_unless_absolute(connection: Connection, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    transfer.upload(connection, plan_upload(connection, tmp_path / "f", "~/up/f"))
    assert (lab.home("lab") / "up" / "f").read_text() == "x"
    assert transfer.free_bytes(connection, "~/up") > MIB


def test_a_killed_far_side_is_resumed_with_at_most_the_rest(connection: Connection, big: Path, tmp_path: Path) -> None:
    target = tmp_path / "there" / "big"

    def kill() -> None:
        [lock] = target.parent.glob(LOCK + "*")
        os.kill(int(lock.read_text()), signal.SIGKILL)

    with pytest.raises(TransferError, match=r"lab: the program on the host ended unexpectedly: .*by a signal") as ended:
        upload(connection, big, target, once_past(SIZE // 2, kill))
    assert "import sys" not in ended.value.message
    assert not target.exists()
    [(_, begun_bytes)] = begun(bytes(target.parent))
    assert begun_bytes > SIZE // 4
    plan = plan_upload(connection, big, str(target))
    assert plan.items[0].action == "resume"
    sent_bytes = transfer.upload(connection, plan).sent_bytes
    assert SIZE - begun_bytes - 8 * MIB < sent_bytes <= SIZE - begun_bytes  # cut streams may have written more
    assert target.read_bytes() == big.read_bytes()
    assert [p.name for p in target.parent.iterdir()] == ["big"]


def test_a_corrupt_file_of_equal_size_and_time_is_found_and_replaced(connection: Connection, tmp_path: Path) -> None:
    source, there = tmp_path / "f", tmp_path / "there"
    source.write_bytes(b"good")
    upload(connection, source, there)
    before = there.stat()
    there.write_bytes(b"evil")
    os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
    plan = plan_upload(connection, source, str(there), verify="full")
    assert plan.items[0].reason.startswith("differs (MD5 ")
    transfer.upload(connection, plan)
    assert there.read_bytes() == b"good"


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_refused_before_anything_is_sent(connection: Connection, big: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        with pytest.raises(DiskFull, match=r"lab: .*disk/big: .* 41\.9 MB more are needed, 8\.39 MB are free"):
            upload(connection, big, disk / "big")
        assert not list(disk.iterdir())


def test_a_disk_that_fills_up_under_way_keeps_the_part(connection: Connection, big: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        filler = disk / "filler"
        with pytest.raises(DiskFull, match=rf"the disk is full on {disk}$") as full:
            upload(connection, big, disk / "big", once_past(8 * MIB, lambda: fill(filler)))
        assert "what was sent is kept" in full.value.remedy
        filler.unlink()
        assert upload(connection, big, disk / "big").sent_bytes < SIZE
        assert (disk / "big").read_bytes() == big.read_bytes()


def fill(file: Path) -> None:
    """Until nothing more goes onto its disk, however much the upload has written meanwhile."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(MIB))


def test_a_read_only_target_is_said_to_be_one(connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with small_disk(tmp_path / "disk", "8m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(TransferError, match=r"lab: .*disk/.*: the file system is read-only"):
            upload(connection, tmp_path / "f", disk / "f")


def test_two_transfers_exclude_each_other(connection: Connection, lab_hosts: Path, big: Path, tmp_path: Path) -> None:
    refusals: list[str] = []

    def second() -> None:
        with Connection(load(lab_hosts).host("lab")) as other, \
                pytest.raises(TransferError, match="another transfer") as refused:
            upload(other, big, tmp_path / "there")
        refusals.append(refused.value.message)

    upload(connection, big, tmp_path / "there", once_past(MIB, second))
    assert len(refusals) == 1
    assert same(big, tmp_path / "there")


def test_a_jump_host_that_ends_is_named_and_the_next_call_resumes(connection: Connection, lab: Lab, big: Path,
                                                                  tmp_path: Path) -> None:
    start_s = time.monotonic()
    with pytest.raises(ConnectionLost, match=JUMP):
        upload(connection, big, tmp_path / "there", once_past(SIZE // 2, lambda: lab.stop_server(JUMP)))
    assert time.monotonic() - start_s < 20
    assert not (tmp_path / "there").exists()
    lab.up()
    plan = plan_upload(connection, big, str(tmp_path / "there"))
    assert plan.items[0].action == "resume"
    transfer.upload(connection, plan)
    assert same(big, tmp_path / "there")


@pytest.mark.parametrize("move", [upload, download])
def test_a_jump_host_that_freezes_is_named_in_bounded_time(connection: Connection, lab: Lab, big: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch, move: Move) -> None:
    monkeypatch.setattr(porter_session, "SILENCE_S", 2.0)
    monkeypatch.setattr(porter_session, "PING_S", 1.0)
    start_s = time.monotonic()
    try:
        with pytest.raises(ConnectionLost, match=rf"answer from {JUMP}"):
            move(connection, big, tmp_path / "there", once_past(8 * MIB, lambda: lab.freeze(JUMP)))
        assert time.monotonic() - start_s < 12
    finally:
        lab.thaw(JUMP)
    assert not (tmp_path / "there").exists()


def test_all_who_used_a_link_that_froze_hear_of_it_at_once(connection: Connection, lab: Lab,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """They asked for the hop anew, one after the other: a check went on for a minute after its last word."""
    monkeypatch.setattr(stream, "PING_AFTER_S", 1.0)
    monkeypatch.setattr(stream, "PING_S", 1.0)
    connection.open()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(connection.run_shell, "sleep 60", timeout_s=90) for _ in range(4)]
        time.sleep(1)
        start_s = time.monotonic()
        lab.freeze(JUMP)
        try:
            errors = [one.exception(60) for one in waiting]
        finally:
            lab.thaw(JUMP)
    assert time.monotonic() - start_s < 20
    assert [type(error) for error in errors] == [ConnectionLost] * 4
    assert {error.hop for error in errors if isinstance(error, ConnectionLost)} == {JUMP}


def test_it_moves_files_on_its_own(lab_hosts: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    run = [sys.executable, "-m", "rdtops.transfer", "--hosts", str(lab_hosts)]
    there = subprocess.run([*run, tmp_path / "f", f"lab:{tmp_path}/there/"], capture_output=True, text=True,
                           check=False)
    assert (there.returncode, there.stderr) == (0, "")
    assert f"send   f: missing on the host, MD5 {hashlib.md5(b'x').hexdigest()}\n1 files sent" in there.stdout
    back = subprocess.run([*run, f"lab:{tmp_path}/there/f", tmp_path / "back"], capture_output=True, check=False)
    assert back.returncode == 0
    assert (tmp_path / "back").read_text() == "x"
    nix = subprocess.run([*run, f"lab:{tmp_path}/nix", tmp_path / "x"], capture_output=True, text=True, check=False)
    assert (nix.returncode, nix.stdout) == (1, "")
    assert nix.stderr == f"lab: {tmp_path}/nix: no such file or folder\n"
