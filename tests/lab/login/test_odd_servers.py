"""Servers and laptops that differ in one thing, each against a real sshd."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.errors import AuthenticationFailed, ConfigError, HostKeyError
from rdtops.ssh import trust
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import FABRIC, OPENSSH, Host
from rdtops.ssh.inventory import load
from rdtops.ssh.openssh_client import SshClient
from tests.lab.commandline import ROOT
from tests.lab.login import world as worlds
from tests.lab.login.world import World

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path(worlds.SSHD).exists(), reason="sshd needs root for a login"),
]


def gpu(world: World, **values: object) -> Host:
    known = world.folder / "known"
    return Host(**{"name": "gpu", "address": "127.0.0.1", "port": world.ports["gpu"], "user": getpass.getuser(),
                   "identity_file": str(world.key), "known_hosts": str(known), **values})


@pytest.mark.parametrize("line", ["KexAlgorithms sntrup761x25519-sha512@openssh.com\n",
                                  "Ciphers chacha20-poly1305@openssh.com\n"])
def test_a_server_that_fabric_has_nothing_in_common_with_is_reached_by_openssh(tmp_path: Path, line: str) -> None:
    with worlds.world(tmp_path, gpu=line) as world:
        with Connection(gpu(world)) as connection:
            assert connection.run(Command("echo", "in")).out == "in\n"
            assert connection.host.transport == OPENSSH
        assert [key.state for key in trust.trust(gpu(world), lambda _: False)] == ["known"]


def test_two_keys_are_offered_where_two_are_wanted(tmp_path: Path) -> None:
    with worlds.world(tmp_path, gpu="AuthenticationMethods publickey,publickey\n") as world:
        worlds.make_key(tmp_path / "second")
        with Path(f"{world.key}.pub").open("a") as file:
            file.write((tmp_path / "second.pub").read_text())
        host = gpu(world)
        both = replace(host, ssh=replace(host.ssh, identity_files=(str(tmp_path / "second"),)))
        with Connection(both) as connection:
            assert connection.run(Command("echo", "in")).out == "in\n"
        with Connection(host) as connection, pytest.raises(AuthenticationFailed, match="it accepts publickey"):
            connection.open()


def test_a_key_that_the_agent_does_not_sign_with_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds.make_key(tmp_path / "asks")
    monkeypatch.setenv("SSH_ASKPASS", "/bin/false")  # the agent's question is refused
    monkeypatch.setenv("DISPLAY", ":0")
    with worlds.world(tmp_path) as world, worlds.agent(tmp_path, []) as way:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(way))
        with Path(f"{world.key}.pub").open("a") as file:
            file.write((tmp_path / "asks.pub").read_text())
        subprocess.run(["ssh-add", "-q", "-c", str(tmp_path / "asks")], check=True, capture_output=True)
        with Connection(gpu(world)) as connection:
            assert connection.run(Command("echo", "in")).out == "in\n"


@pytest.mark.parametrize("name", ["x" * 90, "a b", "50%h"])
def test_any_folder_for_temporary_files_will_do(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    with worlds.world(tmp_path) as world:
        host = gpu(world, transport=OPENSSH)
        with Connection(host) as connection, SshClient(host) as client:
            assert connection.run(Command("echo", "in")).out == "in\n"
            assert client.absolute("x").endswith("/x")


@pytest.mark.parametrize("line", [
    'address = "127.0.0.1\\nProxyCommand touch TMP/made"', 'address = "me@127.0.0.1"', "user = 'ro\"ot'",
    'identity_file = "a\\nb"'])
def test_what_would_be_more_than_a_word_in_an_ssh_config_is_refused(tmp_path: Path, line: str) -> None:
    table = {"address": "192.0.2.1"} if not line.startswith("address") else {}
    (tmp_path / "hosts.toml").write_text("[hosts.gpu]\n" + line.replace("TMP", str(tmp_path)) + "\n" + "".join(
        f'{key} = "{value}"\n' for key, value in table.items()))
    with pytest.raises(ConfigError, match=r"hosts\.toml:2: hosts\.gpu\."):
        load(tmp_path / "hosts.toml")


@pytest.mark.parametrize(("hosts", "second", "outcome"), [
    ("[127.0.0.1]:{port},box", "", "box OLD"), ("[127.0.0.?]:*", "", "known:1"), ("", "[127.0.0.1]:{port}", "more:1")])
def test_a_changed_key_is_trusted_instead_of_the_old_one(tmp_path: Path, hosts: str, second: str, outcome: str) -> None:
    with worlds.world(tmp_path) as world:
        old = world.host_key("mid")
        host = gpu(world, transport=FABRIC)
        host = replace(host, ssh=replace(host.ssh, known_hosts=(str(tmp_path / "more"),)))
        for file, names in (("known", hosts), ("more", second)):
            (tmp_path / file).write_text(f"{names.format(port=world.ports['gpu'])} {old}\n" if names else "")
        if outcome.startswith("box"):
            assert [key.state for key in trust.trust(host, lambda _: True)] == ["changed"]
            assert (tmp_path / "known").read_text() == f"box {old}\n{world.entry('gpu')}"
        else:
            with pytest.raises(HostKeyError, match=f"{outcome} for .* would stay valid"):
                trust.trust(host, lambda _: True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_leaves_no_login_behind(tmp_path: Path, number: signal.Signals) -> None:
    with worlds.world(tmp_path, gpu="ForceCommand sleep 60\n") as world, \
            tempfile.TemporaryDirectory(prefix="t") as short:
        temporary = Path(short)
        (tmp_path / "hosts.toml").write_text(
            f'[hosts.gpu]\naddress = "127.0.0.1"\nport = {world.ports["gpu"]}\nidentity_file = "{world.key}"\n'
            f'known_hosts = "{tmp_path}/known"\ntransport = "openssh"\n')
        process = subprocess.Popen([sys.executable, "-m", "invoke", "gpu", "--host", "gpu"], cwd=ROOT,
                                   env={**os.environ, "RDTOPS_HOSTS": str(tmp_path / "hosts.toml"), "TMPDIR": short},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: bool(list(temporary.glob("rdtops-ssh-*/master"))))
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        wait_until(lambda: not list(temporary.glob("rdtops-ssh-*")))
        assert subprocess.run(["pgrep", "-f", f"{short}/rdtops-ssh"], check=False).returncode == 1


def wait_until(holds: object, limit_s: float = 30.0) -> None:
    end_s = time.monotonic() + limit_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end_s
        time.sleep(0.05)
