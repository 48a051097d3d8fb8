"""Bastions as they are: one wants a code beside the key (a real sshd with PAM), one takes few logins at a time."""

from __future__ import annotations

import contextlib
import getpass
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.errors import AuthenticationFailed
from rdtops.lab import keys
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import FABRIC, OPENSSH, Host
from rdtops.ssh.openssh_client import SshClient
from rdtops.transfer import transfer
from rdtops.transfer.porter_session import OpenPorter
from tests.lab.login.world import wait_for
from tests.lab.moves import MIB, download, random_file, upload

CODE = "424242"
SERVICE = "rdtops-test-otp"  # PAM's name for a server is the name it was started by
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path(SSHD).exists(), reason="PAM's second factor needs root and sshd"),
]


@contextlib.contextmanager
def server(folder: Path, lines: str, program: Path = Path(SSHD)) -> Iterator[Host]:
    """A real sshd with a key of its own and these lines in its configuration."""
    for name in ("host_key", "id"):
        keys.make(folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        lines + f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host_key'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'id.pub'}\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    with (folder / "log").open("w") as log, \
            subprocess.Popen([str(program), "-D", "-e", "-f", str(folder / "config")], stderr=log) as process:
        try:
            wait_for(port)
            yield Host(name="bastion", address="127.0.0.1", port=port, user=getpass.getuser(), connect_timeout_s=10,
                       identity_file=str(folder / "id"), known_hosts=str(folder / "known_hosts"))
        finally:
            process.terminate()


METHODS = ["publickey,keyboard-interactive", "keyboard-interactive", "password", "publickey,password",
           "password,keyboard-interactive"]


@pytest.fixture(scope="module")
def bastion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """It wants a code beside the key, and lets a session in only ten times at once."""
    with asking(tmp_path_factory.mktemp("bastion"), METHODS[0]) as host:
        yield host


@contextlib.contextmanager
def asking(folder: Path, methods: str) -> Iterator[Host]:
    """A bastion that lets in by these methods, where CODE is the password and the code."""
    (folder / "check").write_text(f"#!/bin/sh\n[ \"$(tr -d '\\0')\" = {CODE} ]\n")
    (folder / "check").chmod(0o755)
    pam = Path("/etc/pam.d") / f"{SERVICE}-{os.getpid()}-{folder.name}"
    pam.write_text(f"auth required pam_exec.so type=auth expose_authtok quiet {folder / 'check'}\n"
                   "auth required pam_permit.so\n"
                   "account required pam_permit.so\nsession required pam_permit.so\n")
    (folder / pam.name).symlink_to(SSHD)
    try:
        with server(folder, "UsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication yes\n"
                            f"AuthenticationMethods {methods}\n", folder / pam.name) as host:
            yield host
    finally:
        pam.unlink()


def test_the_code_is_asked_once_for_many_commands(bastion: Host) -> None:
    asked: list[str] = []

    def ask(question: str, echo: bool) -> str:
        asked.append(question)
        assert not echo
        return CODE

    with Connection(bastion, ask) as connection:
        assert [connection.run(Command("echo", str(n))).out for n in range(3)] == ["0\n", "1\n", "2\n"]
    assert len(asked) == 1
    assert asked[0].startswith(f"bastion ({bastion.where}): ")


def test_a_wrong_code_is_a_refusal(bastion: Host) -> None:
    with Connection(bastion, lambda *_: "000000") as connection, pytest.raises(AuthenticationFailed, match="bastion"):
        connection.open()


@pytest.mark.parametrize("transport", [FABRIC, OPENSSH])
@pytest.mark.parametrize("methods", METHODS)
def test_what_a_bastion_asks_is_asked_once_and_kept_nowhere(
        methods: str, transport: str, tmp_path: Path, home: None, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    asked: list[str] = []

    def ask(question: str, _: bool) -> str:
        asked.append(question)
        return CODE

    with asking(tmp_path, methods) as host, Connection(replace(host, transport=transport), ask) as connection:
        assert [connection.run(Command("echo", str(n))).out for n in range(3)] == ["0\n", "1\n", "2\n"]
        big = random_file(tmp_path / "some", 5 * MIB)
        upload(connection, big, tmp_path / "there")
        assert (tmp_path / "there").read_bytes() == big.read_bytes()
        assert not connection.logs_in_alone
        (tmp_path / "check").unlink()  # which knows the code
        kept = [file for file in tmp_path.rglob("*") if file.is_file() and CODE.encode() in file.read_bytes()
                and file.name not in ("some", "there")]
    assert len(asked) == methods.count("keyboard") + methods.count("password")
    assert all("bastion" in question for question in asked)
    assert kept == []
    assert CODE not in caplog.text


@pytest.mark.parametrize("transport", [FABRIC, OPENSSH])
def test_a_password_that_is_wrong_three_times_is_a_refusal(transport: str, tmp_path: Path) -> None:
    asked: list[str] = []
    with asking(tmp_path, "password") as host, \
            Connection(replace(host, transport=transport), lambda text, _: asked.append(text) or "no") as connection, \
            pytest.raises(AuthenticationFailed, match="password"):
        connection.open()
    assert len(asked) == 3


def test_without_a_person_the_question_is_said_in_bounded_time(bastion: Host) -> None:
    begun = time.monotonic()
    with Connection(bastion) as connection, pytest.raises(AuthenticationFailed, match="there is no terminal"):
        connection.open()
    assert time.monotonic() - begun < 15


# --- files ---

@pytest.fixture
def big(tmp_path: Path, home: None) -> Path:
    return random_file(tmp_path / "big", 96 * MIB)


def there_and_back(connection: OpenPorter, big: Path, folder: Path) -> None:
    upload(connection, big, folder / "there")
    download(connection, folder / "there", folder / "back")
    for copy in ("there", "back"):
        assert subprocess.run(["cmp", big, folder / copy], check=False).returncode == 0


def test_a_large_file_goes_over_channels_of_the_login_that_took_the_code(bastion: Host, big: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    opened: list[object] = []
    channel = transfer._channel
    monkeypatch.setattr(transfer, "_channel", lambda way: opened.append(way) or channel(way))

    def ask(question: str, _: bool) -> str:
        asked.append(question)
        return CODE

    with Connection(bastion, ask) as connection:
        connection.open()
        there_and_back(connection, big, big.parent)
    assert len(asked) == 1
    assert set(opened) == {connection}
    assert len(opened) >= 2 * transfer.CHANNELS


def test_the_program_on_its_own_asks_for_the_code_in_a_terminal(bastion: Host, big: Path) -> None:
    inventory = big.parent / "hosts.toml"
    inventory.write_text("[hosts.bastion]\n" + "".join(
        f"{key} = {value!r}\n" for key, value in (
            ("address", bastion.address), ("port", bastion.port), ("identity_file", bastion.identity_file),
            ("known_hosts", bastion.known_hosts))))
    words = [sys.executable, "-m", "rdtops.transfer", "--hosts", str(inventory), str(big),
             f"bastion:{big.parent / 'there'}"]
    person, terminal = pty.openpty()
    with subprocess.Popen(["setsid", "--ctty", "--wait", *words], stdin=terminal, stdout=terminal,
                          stderr=terminal) as process:
        os.close(terminal)
        said = read_until(person, "bastion (")
        os.write(person, f"{CODE}\n".encode())
        said += read_until(person, "every MD5 verified")
    os.close(person)
    assert process.returncode == 0, said
    assert CODE not in said


def read_until(person: int, words: str) -> str:
    said = ""
    while words not in said and select.select([person], [], [], 30)[0]:
        try:
            said += os.read(person, 4096).decode()
        except OSError:  # the other end is closed
            break
    assert words in said, said
    return said


def test_a_bastion_that_takes_one_login_at_a_time_gives_fewer_streams_and_no_error(
        tmp_path: Path, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "first_streams", lambda _: 8)
    folder = tmp_path / "server"
    folder.mkdir()
    with server(folder, "UsePAM no\nMaxStartups 1:100:1\n") as host, SshClient(host) as client:
        there_and_back(client, big, tmp_path)
    assert "MaxStartups" in (folder / "log").read_text()
