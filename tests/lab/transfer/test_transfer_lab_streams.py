"""Streams over real SSH through the jump host: `ssh` processes that die, are refused, or are not there at all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdtops.errors import HostKeyError
from rdtops.lab.site import Lab
from rdtops.porter.parts import begun
from rdtops.ssh import openssh_client
from rdtops.ssh.connection import Connection
from rdtops.ssh.inventory import load
from rdtops.ssh.openssh_client import SshClient
from rdtops.transfer import transfer
from rdtops.transfer.transfer import TransferProgress
from tests.lab.moves import MIB, download, random_file, upload

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("home")]

SIZE = 128 * MIB


@pytest.fixture
def client(lab_hosts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshClient]:
    """As on a long way: with several streams from the beginning."""
    monkeypatch.setattr(transfer, "first_streams", lambda _: 4)
    with SshClient(load(lab_hosts).host("lab")) as client:
        yield client


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return random_file(tmp_path / "big", SIZE)


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


@pytest.mark.parametrize("move", [upload, download])
def test_a_stream_that_dies_leaves_its_ranges_to_the_others(client: SshClient, big: Path, tmp_path: Path,
                                                          move: Any) -> None:
    killed: list[int] = []

    def kill(progress: TransferProgress) -> None:
        inside = [p for p in client._processes if p.alive and p.passed == 2]
        if len(inside) > 1 and progress.bytes_done < SIZE - 32 * MIB and not killed:
            killed.append(inside[-1]._process.pid)
            os.kill(killed[0], signal.SIGKILL)

    move(client, big, tmp_path / "there" / "big", kill)
    assert killed
    assert same(big, tmp_path / "there" / "big")
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["big"]


def test_kill_9_of_the_sender_costs_at_most_a_twentieth(client: SshClient, lab_hosts: Path, big: Path,
                                                        tmp_path: Path) -> None:
    folder = tmp_path / "there"
    sender = subprocess.Popen([sys.executable, "-m", "rdtops.transfer", "--hosts", str(lab_hosts), str(big),
                               f"lab:{folder}/"], stdout=subprocess.DEVNULL)
    until(lambda: sum(size for _, size in begun(bytes(folder))) > SIZE // 3)
    sender.kill()
    sender.wait()
    kept = sum(size for _, size in begun(bytes(folder)))
    outcome = upload(client, big, folder / "big")
    assert SIZE // 3 < kept < SIZE
    assert outcome.sent_bytes <= SIZE - kept + SIZE // 20
    assert same(big, folder / "big")


def until(holds: Any) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.mark.parametrize("move", [upload, download])
def test_without_an_ssh_program_channels_of_one_connection_carry_it(lab_hosts: Path, big: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch,
                                                                    move: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert not openssh_client.present()
    with Connection(load(lab_hosts).host("lab")) as connection:
        assert move(connection, big, tmp_path / "there").sent_bytes == SIZE
    monkeypatch.undo()
    assert same(big, tmp_path / "there")


def test_an_unknown_host_key_is_refused_by_the_ssh_program_too(lab: Lab, tmp_path: Path, lab_hosts: Path) -> None:
    host = replace(load(lab_hosts).host("lab"), known_hosts=str(tmp_path / "none"))
    with SshClient(host) as client, pytest.raises(HostKeyError):
        client.absolute("~/x")


def test_a_dry_run_prints_reasons_and_sizes_and_moves_nothing(lab_hosts: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x" * 2000)
    ran = subprocess.run([sys.executable, "-m", "rdtops.transfer", "--hosts", str(lab_hosts), "--dry-run",
                          str(tmp_path / "f"), f"lab:{tmp_path}/there/"], capture_output=True, text=True, check=True)
    assert ran.stdout == "send   f: 2 kB, missing on the host\n1 of 1 files, 2 kB to send\n"
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "there").iterdir())
