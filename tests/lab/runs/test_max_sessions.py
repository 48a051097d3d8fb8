"""A host whose sshd allows few sessions at a time: everything works, one after the other. Over real sshd."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.errors import SessionRefused
from rdtops.lab import sshd
from rdtops.lab.site import Lab
from rdtops.porter import porter
from rdtops.runs.poller import RunPoller
from rdtops.ssh import inventory
from rdtops.ssh.channels import max_sessions
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.transfer import transfer
from tests.lab.commandline import CommandLine
from tests.lab.moves import MIB, download, random_file, upload

pytestmark = [pytest.mark.lab, pytest.mark.skipif(sshd.obstacle() is not None, reason="needs sshd")]


@contextlib.contextmanager
def allowing(lab: Lab, sessions: int) -> Iterator[None]:
    """Its sshd reads its configuration for each connection."""
    config = lab.folder("lab2") / "sshd_config"
    before = config.read_text()
    config.write_text(f"MaxSessions {sessions}\n{before}")
    try:
        yield
    finally:
        config.write_text(before)


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> Host:
    if lab.up().backend != "openssh":
        pytest.skip("the lab has no sshd here")
    lab.write_inventory(tmp_path / "hosts.toml", {})
    return inventory.load(tmp_path / "hosts.toml").host("lab2")


@pytest.mark.parametrize("sessions", [1, 2, 3])
def test_eight_commands_side_by_side_all_run(lab: Lab, host: Host, sessions: int) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = connection.run(Command("sh", "-c", f"sleep 0.1; echo {number}")).out

    with allowing(lab, sessions), Connection(host) as connection:
        connection.open()
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers == {number: f"{number}\n" for number in range(8)}
        assert connection.alive


def test_a_session_that_only_we_could_end_is_named_soon(lab: Lab, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(max_sessions, "OWN_WAIT_S", 0.5)
    with allowing(lab, 1), Connection(host) as connection:
        with connection.far(porter, {"do": "stream"}):
            begun_s = time.monotonic()
            with pytest.raises(SessionRefused, match=r"lab2: its sshd allows only 1 session at a time \(MaxSessions\)"):
                connection.run(Command("true"))
            assert time.monotonic() - begun_s < 5
        assert connection.run(Command("echo", "again")).out == "again\n"


def test_a_program_that_is_slow_to_end_is_waited_for(lab: Lab, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd counts its session until then, although we have closed it."""
    monkeypatch.setattr(max_sessions, "OWN_WAIT_S", 0.5)
    with allowing(lab, 1), Connection(host) as connection:
        with connection.stream("trap '' HUP PIPE; echo on; read x; sleep 2", has_input=False) as slow:
            assert slow.read(3) == b"on\n"
        begun_s = time.monotonic()
        assert connection.run(Command("echo", "next")).out == "next\n"
        assert time.monotonic() - begun_s > max_sessions.OWN_WAIT_S


def test_a_spare_session_ends_where_another_is_needed(lab: Lab, host: Host) -> None:
    with allowing(lab, 1), Connection(host) as connection, \
            connection.far(porter, {"do": "stream"}, wait=False) as spare:
        assert spare.wire.hear() == {"ready": True}
        with pytest.raises(SessionRefused):
            connection.stream("true", wait=False)
        assert connection.run(Command("echo", "needed")).out == "needed\n"


def test_a_file_travels_where_there_is_one_session(lab: Lab, host: Host, home: None, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over channels of the one login that a person made."""
    monkeypatch.setattr(transfer, "_carries", lambda _: True)
    big = random_file(tmp_path / "big", 96 * MIB)
    with allowing(lab, 1), Connection(host) as connection:
        upload(connection, big, lab.home("lab2") / "there")
        download(connection, lab.home("lab2") / "there", tmp_path / "back")
    assert subprocess.run(["cmp", big, tmp_path / "back"], check=False).returncode == 0
    (lab.home("lab2") / "there").unlink()


def test_a_program_that_is_idle_gives_way_and_is_started_again(lab: Lab, host: Host) -> None:
    with allowing(lab, 1), Connection(host) as connection, RunPoller(connection) as poller:
        for number in range(3):
            assert len(poller.gpus()[0]) == 8
            assert connection.run(Command("echo", str(number))).out == f"{number}\n"


def test_every_check_is_answered_over_one_session(lab: Lab, host: Host, tmp_path: Path) -> None:
    with allowing(lab, 1):
        done = CommandLine(tmp_path, tmp_path / "hosts.toml")("check --host lab2 --json", timeout_s=200)
    found = [str(row) for report in done.rows() for row in report["results"]]
    assert len(found) > 20, done.said
    assert [row for row in found if "raised" in row or "lost lab2" in row or "MaxSessions" in row] == []


@pytest.mark.slow
def test_a_training_is_deployed_checked_launched_and_watched_with_one_session(
        lab: Lab, tiny_hosts: Path, tmp_path: Path) -> None:
    if lab.up().backend != "openssh":
        pytest.skip("the lab has no sshd here")
    inv = CommandLine(tmp_path, tiny_hosts)
    with allowing(lab, 1):
        inv.good("deploy check train --host lab2 --set max_steps=3 --set checkpoint_every_steps=3", timeout_s=200)
        inv.good("watch --plain --host lab2", timeout_s=200)
        inv.good("status --host lab2")
        inv.good("fetch-results --host lab2")
