"""A bastion that wants a code beside the key: a real sshd with PAM, asked once, for as many commands as there are."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.errors import AuthenticationFailed
from rdtops.lab import keys
from rdtops.remote.command import Command
from rdtops.remote.connection import Connection
from rdtops.remote.hosts import Host

CODE = "424242"
SERVICE = "rdtops-test-otp"  # PAM's name for a server is the name it was started by
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path(SSHD).exists(), reason="PAM's second factor needs root and sshd"),
]


@pytest.fixture(scope="module")
def bastion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("bastion")
    for name in ("host_key", "id"):
        keys.make(folder / name)
    (folder / "check").write_text(f"#!/bin/sh\n[ \"$(tr -d '\\0')\" = {CODE} ]\n")
    (folder / "check").chmod(0o755)
    pam = Path("/etc/pam.d") / SERVICE
    pam.write_text(f"auth required pam_exec.so type=auth expose_authtok quiet {folder / 'check'}\n"
                   "auth required pam_permit.so\n"
                   "account required pam_permit.so\nsession required pam_permit.so\n")
    (folder / SERVICE).symlink_to(SSHD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host_key'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'id.pub'}\nStrictModes no\nUsePAM yes\nKbdInteractiveAuthentication yes\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nAuthenticationMethods publickey,keyboard-interactive\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([str(folder / SERVICE), "-D", "-e", "-f", str(folder / "config")], stderr=log)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    try:
        wait_for(port)
        yield Host(name="bastion", address="127.0.0.1", port=port, user=getpass.getuser(), connect_timeout_s=10,
                   identity_file=str(folder / "id"), known_hosts=str(folder / "known_hosts"))
    finally:
        server.terminate()
        server.wait()
        pam.unlink()


def wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


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


def test_without_a_person_the_question_is_said_in_bounded_time(bastion: Host) -> None:
    begun = time.monotonic()
    with Connection(bastion) as connection, pytest.raises(AuthenticationFailed, match="nobody is at a terminal"):
        connection.open()
    assert time.monotonic() - begun < 15
