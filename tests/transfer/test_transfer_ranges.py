"""Large files in ranges: the record of what is there, the queue, the streams, and the bundle at their far end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdtops.errors import AuthenticationFailed, DigestMismatch, HostError, HostKeyError, Unreachable
from rdtops.porter import porter
from rdtops.porter.entries import Entry, Problem
from rdtops.porter.file_digests import InOrder
from rdtops.porter.parts import RECORD, RangedPart, begun, gaps, joined, part_name
from rdtops.porter.wire import Wire
from rdtops.ssh import bundle, openssh_client
from rdtops.ssh.hosts import Host
from rdtops.ssh.login.openssh_errors import Refused
from rdtops.ssh.openssh_client import SshClient
from rdtops.transfer import streams, transfer
from rdtops.transfer.ranges import Range, Ranges, RangeStream
from rdtops.transfer.transfer import plan_download, plan_upload
from tests.transfer.test_transfer import LocalConnection, LocalStream

MIB = 1 << 20
SIZE = 40 * MIB
FakeSsh = Callable[[str], SshClient]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def connection() -> Any:
    return LocalConnection()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(MIB) * (SIZE // MIB))
    return path


def upload(connection: Any, source: Path, target: Path, watch: Any = None) -> transfer.Outcome:
    return transfer.upload(connection, plan_upload(connection, source, str(target)), watch)


def download(connection: Any, source: Path, target: Path, watch: Any = None) -> transfer.Outcome:
    return transfer.download(connection, plan_download(connection, str(source), target), watch)


# --- the bundle ---

def test_a_bundle_needs_nothing_of_us_on_the_host(tmp_path: Path) -> None:
    request = json.dumps({"do": "home"}).encode() + b"\n"
    blocked = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; " + bundle.READER
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", blocked], input=bundle.packed(porter) + request,
                         cwd=tmp_path, env={"HOME": "/somewhere"}, capture_output=True, check=True)
    assert json.loads(ran.stdout) == {"home": "/somewhere"}


def test_a_bundle_is_small_enough_to_arrive_in_two_round_trips() -> None:
    assert len(bundle.packed(porter)) < 40_000


def test_no_module_of_the_far_side_is_a_room_too_full() -> None:
    for file in Path(porter.__file__).parent.glob("*.py"):
        assert len(file.read_text().splitlines()) < 400, file


# --- parts ---

def test_gaps_are_what_spans_leave_out() -> None:
    assert joined([(5, 7), (0, 2), (2, 3), (6, 9)]) == [(0, 3), (5, 9)]
    assert gaps(10, [(2, 3), (5, 9)]) == [(0, 2), (3, 5), (9, 10)]
    assert gaps(3, [(0, 3)]) == []


def record(part: Path, *rows: tuple[int, bytes]) -> None:
    Path(os.fsdecode(bytes(part) + RECORD)).write_text(
        "".join(f"{at} {len(content)} {zlib.crc32(content)}\n" for at, content in rows) + "9 1 torn")


def test_only_ranges_that_are_as_recorded_are_there(tmp_path: Path) -> None:
    part = tmp_path / part_name("f", 9, 1)
    part.write_bytes(b"abc\0\0\0ghX")
    record(part, (0, b"abc"), (3, b"def"), (6, b"gh"))
    assert begun(bytes(tmp_path)) == [(bytes(part.name, "ascii"), 8)]
    ranged = RangedPart(bytes(part))
    assert ranged.there(9) == [(0, 3), (6, 8)]  # the middle never reached the disk
    ranged.close()


def test_the_digest_of_ranges_in_any_order_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abcdef")
    with (tmp_path / "f").open("rb") as file:
        whole = InOrder(file.fileno(), 6)
        for start, end in ((4, 6), (0, 1), (1, 4)):
            whole.add(start, end)
        assert whole.result() == hashlib.md5(b"abcdef").hexdigest()


# --- the queue and the streams ---

def entry(size: int) -> Entry:
    return Entry("f", "file", size, "md5", 1, False)


def test_ranges_cover_what_is_missing_once() -> None:
    ranges = Ranges()
    ranges.add(entry(3 * MIB), "part", [(MIB, 2 * MIB)])
    taken = []
    while range_ := ranges.take():
        taken.append((range_.start, range_.end))
    assert gaps(3 * MIB, taken) == [(MIB, 2 * MIB)]
    assert sum(end - start for start, end in taken) == 2 * MIB


def test_a_range_that_arrives_altered_is_sent_again_and_not_for_ever() -> None:
    ranges = Ranges()
    bad = Range(entry(9), "part", 0, 9)
    ranges.altered(bad)
    ranges.altered(bad)
    assert ranges.take() == ranges.take() == bad
    with pytest.raises(Problem, match="arrived altered 3 times"):
        ranges.altered(bad)


def test_a_stream_that_ends_gives_back_what_it_held() -> None:
    ranges = Ranges()
    ranges.add(entry(MIB), "part", [])
    stream = RangeStream(Wire(lambda _: b"", len), ranges, Nothing(), 0.0)
    assert stream.start_one()
    before = ranges.waiting_bytes
    stream.end()
    assert (before, ranges.waiting_bytes) == (MIB - (1 << 18), MIB)


class Nothing:
    def order(self, wire: Wire, range_: Range) -> None: ...
    def handle(self, wire: Wire, message: Any, range_: Range) -> bool: ...
    def done_with(self, part: str) -> None: ...
    def close(self) -> None: ...


@pytest.mark.parametrize(("rtt_s", "count"), [(0.0, 1), (0.04, 4), (0.12, 8)])
def test_a_longer_way_begins_with_more_streams(rtt_s: float, count: int) -> None:
    assert streams.first_streams(rtt_s) == count


def refusing(after: int) -> Callable[..., Any]:
    honest, opened = transfer._channel, []

    def way(*arguments: Any) -> Any:
        opened.append(1)
        if len(opened) > after:
            raise Refused("kex_exchange_identification: Connection closed by remote host")
        return honest(*arguments)
    return way


@pytest.mark.parametrize("move", [upload, download])
@pytest.mark.parametrize("allowed", [0, 1, 9])
def test_refused_logins_are_fewer_streams_and_no_error(connection: Any, big: Path, tmp_path: Path, allowed: int,
                                                       move: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_channel", refusing(allowed))
    outcome = move(connection, big, tmp_path / "there" / "big")
    assert outcome.sent_bytes == SIZE
    assert (tmp_path / "there" / "big").read_bytes() == big.read_bytes()
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["big"]


@pytest.mark.parametrize("move", [upload, download])
def test_a_stream_that_dies_leaves_the_rest_to_the_others(connection: Any, tmp_path: Path, move: Any) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MIB) * 192)
    killed: list[LocalStream] = []

    def kill(progress: transfer.TransferProgress) -> None:
        if progress.bytes_done > 16 * MIB and not killed:
            killed.append(until(lambda: next((s for s in connection.streams if s.does == "stream"), None)))
            killed[0].process.kill()

    move(connection, source, tmp_path / "there", kill)
    assert killed
    assert (tmp_path / "there").read_bytes() == source.read_bytes()


def until(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 10
    while (value := found()) is None and time.monotonic() < end:
        time.sleep(0.01)
    return value


def test_holes_stay_holes(connection: Any, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.seek(100 * MIB)
        file.write(b"end")
        file.truncate(120 * MIB)
    upload(connection, source, tmp_path / "there")
    download(connection, tmp_path / "there", tmp_path / "back")
    for copy in (tmp_path / "there", tmp_path / "back"):
        assert copy.stat().st_size == 120 * MIB
        assert copy.stat().st_blocks * 512 < 8 * MIB
        assert subprocess.run(["cmp", source, copy], check=False).returncode == 0


def test_the_holes_of_a_sparse_file_need_no_room(connection: Any, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.write(b"start")
        file.truncate(1 << 40)
    plan = plan_upload(connection, source, str(tmp_path / "there"))
    assert plan.need["need_bytes"] < MIB
    assert plan.bytes_to_send == 1 << 40


def test_ranges_altered_on_the_way_are_a_digest_mismatch(connection: Any, big: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    honest = LocalStream.write

    def flip(stream: LocalStream, content: bytes | memoryview) -> None:
        honest(stream, bytes(content[:-1]) + b"!" if len(content) == 1 << 18 else content)

    monkeypatch.setattr(LocalStream, "write", flip)
    with pytest.raises(DigestMismatch, match="arrived altered 3 times"):
        upload(connection, big, tmp_path / "there" / "big")
    assert not (tmp_path / "there" / "big").exists()


# --- the ssh program ---

@pytest.mark.parametrize(("said", "kind"), [
    ("kex_exchange_identification: Connection closed by remote host", Refused),
    ("Connection closed by UNKNOWN port 65535", Refused),
    ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", HostKeyError),
    ("No ED25519 host key is known for [10.0.0.1]:22 and you have requested strict checking.",
     HostKeyError),
    ("root@h: Permission denied (publickey,keyboard-interactive).", AuthenticationFailed),
    ("ssh: Could not resolve hostname h: Name or service not known", Unreachable)])
def test_what_ssh_says_becomes_our_error(fake_ssh: FakeSsh, said: str, kind: type[Exception]) -> None:
    with fake_ssh(f"echo {said!r} >&2; exit 255") as client, pytest.raises(kind):
        client.start(porter).wire.hear()


def test_no_more_than_four_logins_are_under_way_at_a_hop(fake_ssh: FakeSsh) -> None:
    with fake_ssh("exec sleep 20") as client:
        threads = [threading.Thread(target=try_to_start, args=(client,), daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert len(client._processes) == openssh_client.LOGINS
        client.close()
        for thread in threads:
            thread.join(5)


def test_a_login_that_comes_to_no_end_is_given_up(fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssh_client, "LOGIN_S", -19.5)  # beside the 20 s of the hop
    with fake_ssh("exec sleep 20") as client, pytest.raises(HostError, match="cannot reach h"):
        client.far(porter, {"do": "home"})


def test_ssh_that_says_more_than_it_can_is_not_gathered(fake_ssh: FakeSsh) -> None:
    with fake_ssh("exec cat /dev/zero >&2") as client, pytest.raises(HostError, match="no answer from h"):
        client.ping(5)


def try_to_start(client: SshClient) -> None:
    with contextlib.suppress(HostError):  # the client is closed in the end
        client.start(porter).wire.hear()


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    def make(script: str) -> SshClient:
        program = tmp_path / "bin" / "ssh"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n" + script + "\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return SshClient(Host(name="h", address="10.0.0.1"))

    return make
