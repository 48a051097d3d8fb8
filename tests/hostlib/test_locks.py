"""A lock is what the kernel says; the file says nothing. And without locks on a file system, work goes on."""

import ast
import errno
import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdtops.contract import lease
from rdtops.hostlib import digests, locks

ROOT = Path(__file__).parents[2]


def test_flock_has_one_home():
    files = [*(ROOT / "rdtops").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    users = {file for file in files for node in ast.walk(ast.parse(file.read_text()))
             if isinstance(node, ast.Attribute) and node.attr in ("flock", "lockf", "LOCK_EX", "LOCK_SH", "LOCK_NB")
             and isinstance(node.value, ast.Name) and node.value.id == "fcntl"}
    assert users == {Path(locks.__file__)}


def test_a_lock_of_ours_is_ours_alone_whatever_the_umask_and_whatever_it_was(tmp_path):
    (tmp_path / "old").touch(0o666)
    (tmp_path / "old").chmod(0o666)
    before = os.umask(0)
    try:
        for name in ("old", "new"):
            with locks.alone(str(tmp_path / name), 0.0) as mine:
                assert mine
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_one_at_a_time_and_patience_has_an_end(tmp_path):
    path = str(tmp_path / "lock")
    with locks.alone(path, 0.0) as mine, locks.alone(path, 0.1) as other:
        assert (mine, other) == (True, False)
        assert locks.is_held(path)
        assert locks.is_held(path, locks.SHARED)
    assert not locks.is_held(path)
    assert not locks.is_held(str(tmp_path / "nowhere"))


def test_those_who_look_whether_it_is_held_do_not_take_each_other_for_it(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with path.open() as file:
        locks.flock(file.fileno(), locks.SHARED)
        assert not locks.is_held(str(path), locks.SHARED)
        assert locks.is_held(str(path))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize(("make", "is_what"), [(fifo, "a FIFO"), (link, "a link"), (Path.mkdir, "a folder")])
def test_what_is_no_file_is_named_with_its_owner_and_never_waited_for(tmp_path, make, is_what):
    make(tmp_path / "lock")
    begun_s = time.monotonic()
    with pytest.raises(OSError, match=re.escape(f"{tmp_path}/lock is {is_what} of {locks.owner(os.geteuid())}")):
        locks.opened(str(tmp_path / "lock"))
    assert time.monotonic() - begun_s < 1
    assert not locks.is_held(str(tmp_path / "lock"))


def test_lines_of_many_processes_stay_whole(tmp_path):
    line = ("from rdtops.hostlib import locks\n"
            f"for n in range(50): locks.append({str(tmp_path / 'f')!r}, 'x' * 99 + '\\n')")
    writers = [subprocess.Popen([sys.executable, "-c", line]) for _ in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert set((tmp_path / "f").read_text().splitlines()) == {"x" * 99}
    assert len((tmp_path / "f").read_text().splitlines()) == 150


# --- a file system without locks ---

@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def without_locks(request, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_file_system_without_locks_grants_every_lock(without_locks, tmp_path):
    path = str(tmp_path / "runs" / "lock")
    with locks.alone(path, 0.0) as mine, locks.alone(path, 0.0) as other:
        assert (mine, other) == (True, True)
        assert not locks.is_held(path, locks.SHARED)  # an evaluation is not `being evaluated already`
    digests.remembered([Path(__file__)], str(tmp_path / "cache"))
    assert (tmp_path / "cache").exists()


def test_a_lease_is_taken_and_joined_where_there_are_no_locks(without_locks, tmp_path, monkeypatch):
    config = {"run_id": "a", "workspace": str(tmp_path), "train": {"device": "cuda", "num_processes": 1}}
    (tmp_path / "runs" / "a").mkdir(parents=True)
    wanted, gate = lease.claims(config, "0", {}, str(tmp_path / "common")), str(tmp_path / "common" / "gate")
    descriptors = lease.take(wanted, {"run_id": "a"}, gate)
    assert lease.in_the_way(wanted, gate) == []
    monkeypatch.setenv(lease.OF, "a")
    monkeypatch.setenv(lease.FILES, f'["{tmp_path}/runs/a/.lease"]')
    monkeypatch.setattr(lease, "_joined", joined := [])
    lease.join("a")
    assert len(joined) == 1
    for descriptor in (*descriptors, *joined):
        os.close(descriptor)


def test_another_error_of_a_lock_is_no_lock(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="the disk is broken"), locks.alone(str(tmp_path / "lock"), 0.0):
        pass
