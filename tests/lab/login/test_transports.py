"""What Connection promises, by each transport: bounded in time, the hop named, the bytes right."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.errors import CommandFailed, CommandTimeout, ConnectionLost, HostError, HostKeyError
from rdtops.lab.site import JUMP, Lab
from rdtops.ssh import trust
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import FABRIC, OPENSSH, Host
from rdtops.ssh.stream import Stream
from tests.lab.moves import MIB, download, random_file, upload

pytestmark = pytest.mark.lab
BIG = 96 * MIB


@pytest.fixture(params=[FABRIC, OPENSSH])
def host(request: pytest.FixtureRequest, lab_host: Host) -> Host:
    """Return a host of the lab behind its jump host, reached by one transport."""
    jump = replace(lab_host.jumps[0], connect_timeout_s=5)
    return replace(lab_host, transport=request.param, jumps=(jump,), connect_timeout_s=5)


@pytest.fixture
def connection(host: Host) -> Iterator[Connection]:
    with Connection(host) as opened:
        yield opened


def test_commands_have_their_code_their_output_and_their_input(connection: Connection) -> None:
    done = connection.run_shell("cat; echo wrong >&2; exit 7", check=False, stdin=b"a\0b" * 1000)
    assert (done.code, done.out, done.err) == (7, "a\0b" * 1000, "wrong\n")
    assert connection.run_shell("exit 255", check=False).code == 255
    assert connection.run(Command("printf", "%s", "$HOME `id` 'x'\n")).out == "$HOME `id` 'x'\n"
    assert connection.ping() > 0


def test_many_commands_run_side_by_side_over_one_login(connection: Connection) -> None:
    connection.open()
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: connection.run(Command("sh", "-c", f"sleep 0.2; echo {n}")).out, range(8)))
    assert said == [f"{n}\n" for n in range(8)]


def test_a_command_without_an_end_is_ended_and_its_connection_goes_on(connection: Connection) -> None:
    begun_s = time.monotonic()
    with pytest.raises(CommandTimeout):
        connection.run(Command("sleep", "60"), timeout_s=1.0)
    assert time.monotonic() - begun_s < 20
    assert connection.run(Command("echo", "still")).out == "still\n"


def test_a_killed_command_is_no_success(connection: Connection) -> None:
    with pytest.raises((ConnectionLost, CommandFailed)):
        connection.run_shell("kill -9 $$")


def test_a_frozen_jump_is_named_in_bounded_time(connection: Connection, lab: Lab) -> None:
    connection.open()
    lab.freeze(JUMP)
    try:
        begun_s = time.monotonic()
        with pytest.raises(HostError, match=JUMP):
            connection.ping(3.0)
        assert time.monotonic() - begun_s < 30
    finally:
        lab.thaw(JUMP)


@pytest.mark.parametrize("hop", [JUMP, "lab2"])
def test_a_killed_hop_ends_a_running_command_and_the_next_one_works(connection: Connection, lab: Lab, hop: str) -> None:
    connection.open()
    killing = threading.Timer(0.5, lab.kill_server, [hop])
    killing.start()
    try:
        begun_s = time.monotonic()
        with pytest.raises(HostError):
            connection.run(Command("sleep", "60"), timeout_s=60)
        assert time.monotonic() - begun_s < 40
    finally:
        killing.join()
        lab.start_server(hop)
    assert connection.run(Command("echo", "again")).out == "again\n"


@pytest.mark.parametrize("hop", [JUMP, "lab2"])
def test_a_changed_key_of_a_hop_is_refused(host: Host, lab: Lab, hop: str, tmp_path: Path) -> None:
    known = tmp_path / "known"
    jump, there = (f"[127.0.0.1]:{lab.ports.of(name)} " for name in (JUMP, "lab2"))
    text = lab.known_hosts.read_text()
    wrong, right = (jump, there) if hop == JUMP else (there, jump)
    other = next(line.partition(" ")[2] for line in text.splitlines() if line.startswith(right))
    known.write_text("".join(f"{wrong}{other}\n" if line.startswith(wrong) else f"{line}\n"
                             for line in text.splitlines()))
    jumps = tuple(replace(one, known_hosts=str(known)) for one in host.jumps)
    with Connection(replace(host, known_hosts=str(known), jumps=jumps)) as connection, \
            pytest.raises(HostKeyError, match="CHANGED"):
        connection.open()


def test_a_cut_stream_is_a_lost_connection(connection: Connection, lab: Lab) -> None:
    def read_to_the_end(stream: Stream) -> None:
        while stream.read(1 << 20):
            pass
        stream.code()

    with connection.stream("cat /dev/zero", silence_s=10) as stream:
        assert stream.read(1)
        lab.kill_server("lab2")
        try:
            with pytest.raises(HostError):
                read_to_the_end(stream)
        finally:
            lab.start_server("lab2")


def test_a_large_stream_arrives_whole(connection: Connection) -> None:
    """The bytes of a stream, not those of a transfer: its lanes are another program."""
    size = BIG
    with connection.stream(f"head -c {size} /dev/zero | tr '\\0' x", silence_s=30) as stream:
        digest, got = hashlib.md5(usedforsecurity=False), 0
        while piece := stream.read(1 << 20):
            digest.update(piece)
            got += len(piece)
    assert got == size
    expected = hashlib.md5(usedforsecurity=False)
    for _ in range(size // MIB):
        expected.update(b"x" * MIB)
    assert digest.digest() == expected.digest()


@pytest.mark.parametrize("size", [64 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.slow)])
def test_a_file_goes_there_and_back(connection: Connection, home: None, tmp_path: Path, size: int) -> None:
    big = random_file(tmp_path / "big", size)
    upload(connection, big, tmp_path / "there")
    download(connection, tmp_path / "there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()


def test_nothing_is_left_on_the_laptop(host: Host) -> None:
    """A master, its jump's `ssh` and its files end with the connection."""
    with Connection(host) as connection:
        connection.run_shell(":")
        sessions = [connection.stream("sleep 60", silence_s=5) for _ in range(2)]
        link = connection._link
    assert sessions
    assert not link.alive
    folder = getattr(link, "_folder", None)
    if folder:
        assert not Path(folder.name).exists()
        left = subprocess.run(["pgrep", "-f", folder.name], capture_output=True, text=True, check=False)
        assert left.stdout == ""


@pytest.mark.parametrize("transport", [FABRIC, OPENSSH])
def test_trust_shows_the_key_of_each_hop_and_replaces_a_changed_one(transport: str, lab_host: Host, lab: Lab,
                                                                   tmp_path: Path) -> None:
    known = tmp_path / "known"
    jump, own = (f"[127.0.0.1]:{lab.ports.of(name)}" for name in (JUMP, "lab2"))
    right = next(line.partition(" ")[2] for line in lab.known_hosts.read_text().splitlines() if line.startswith(own))
    known.write_text(f"# mine\nother {right}\n{own},two {right}\n{own} {right[:-8]}AAAAAAAA\n")
    host = replace(lab_host, transport=transport, known_hosts=str(known),
                   jumps=tuple(replace(hop, known_hosts=str(known)) for hop in lab_host.jumps))
    known.write_text(known.read_text().replace(f"{own},two", "two"))
    with pytest.raises(HostKeyError, match="not accepted"):
        trust.trust(host, lambda _: False)
    assert jump not in known.read_text()
    seen = trust.trust(host, lambda _: True)
    assert [(key.hop.name, key.state) for key in seen] == [(JUMP, "new"), ("lab2", "changed")]
    assert all(key.fingerprint.startswith("SHA256:") for key in seen)
    lines = known.read_text().splitlines()
    assert lines[:3] == ["# mine", f"other {right}", f"two {right}"]
    assert sorted(line.split()[0] for line in lines[3:]) == sorted([jump, own])
    assert [key.state for key in trust.trust(host, lambda _: False)] == ["known", "known"]
    with Connection(host) as connection:
        assert connection.run(Command("echo", "in")).out == "in\n"
