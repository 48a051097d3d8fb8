"""The doors of the lab's jump host: what plain ssh makes of each, and what rdtops does."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.errors import LabError, RdtopsError
from rdtops.lab import doors, sshd
from rdtops.lab.ports import Ports
from rdtops.lab.site import JUMP, Lab
from rdtops.ssh import inventory
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection

pytestmark = pytest.mark.lab

AS_ROOT = pytest.mark.skipif(bool(sshd.obstacle() or sshd.pam_obstacle()), reason="sshd asks PAM only as root")
OF_SSHD = pytest.mark.skipif(bool(sshd.obstacle()), reason="no sshd here")

At = Callable[..., Lab]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[At]:
    """The lab of this file, with the door that a test wants."""
    lab = Lab(tmp_path_factory.mktemp("doors"), Ports.free())

    def with_door(door: str, backend: str = "auto") -> Lab:
        lab.up(backend, door)
        return lab

    yield with_door
    lab.down()


def ssh(lab: Lab, *words: str, answer: Path | None = None, stdin: bytes = b"",
        program: Sequence[str] = ("ssh",)) -> subprocess.CompletedProcess[str]:
    """Plain ssh with the lab's ssh_config; a person answers every question with the first line of `answer`."""
    asked = lab.root / "askpass"
    asked.write_text(f"#!/bin/sh\nhead -1 {answer}\n")
    asked.chmod(0o700)
    env = {**os.environ, "SSH_ASKPASS": str(asked), "SSH_ASKPASS_REQUIRE": "force" if answer else "never"}
    done = subprocess.run([*program, "-F", lab.ssh_config, "-o", "ConnectTimeout=10", *words], env=env, input=stdin,
                          capture_output=True, timeout=60, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


ONCE = ("-o", "NumberOfPasswordPrompts=1")


def read_until(process: subprocess.Popen[bytes], words: str) -> str:
    assert process.stdout
    said, end_s = "", time.monotonic() + 20
    while words not in said and time.monotonic() < end_s:
        if select.select([process.stdout], [], [], 1)[0]:
            said += os.read(process.stdout.fileno(), 4096).decode()
    assert words in said, said
    return said


def wrong(tmp_path: Path) -> Path:
    (tmp_path / "wrong").write_text("000000\n")
    return tmp_path / "wrong"


# --- each door, by plain ssh

@pytest.mark.parametrize("backend", [pytest.param("openssh", marks=OF_SSHD), "asyncssh"])
def test_noforward_gives_a_shell_and_forwards_nothing(at: At, backend: str) -> None:
    lab = at("noforward", backend)
    done = ssh(lab, "lab", "true")
    assert done.returncode == 255
    assert "administratively prohibited" in done.stderr
    into = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{lab.ports.lab} && head -c 4 <&3'"
    assert ssh(lab, JUMP, f"echo $RDTOPS_LAB; {into}").stdout == f"{JUMP}\nSSH-"  # a program there reaches the host


@pytest.mark.parametrize("backend", [pytest.param("openssh", marks=AS_ROOT), "asyncssh"])
def test_password_takes_the_password_of_the_lab_and_no_key(at: At, backend: str, tmp_path: Path) -> None:
    lab = at("password", backend)
    assert lab.words is not None
    assert lab.words.stat().st_mode & 0o777 == 0o600
    before = lab.words.read_text()
    assert ssh(lab, "lab", "echo in", answer=lab.words).stdout == "in\n"
    assert "Permission denied (password)" in ssh(lab, *ONCE, JUMP, answer=wrong(tmp_path)).stderr
    assert "Permission denied (password)" in ssh(lab, "-o", "BatchMode=yes", JUMP).stderr
    lab.up()
    assert lab.words.read_text() == before


@pytest.mark.parametrize(("door", "backend"), [pytest.param("code", "openssh", marks=AS_ROOT), ("code", "asyncssh"),
                                               pytest.param("key-and-code", "openssh", marks=AS_ROOT)])
def test_a_code_is_good_once(at: At, door: str, backend: str, tmp_path: Path) -> None:
    lab = at(door, backend)
    assert lab.words is not None
    codes = lab.words.read_text().splitlines()
    assert len(codes) >= doors.CODES
    assert ssh(lab, "lab", "echo in", answer=lab.words).stdout == "in\n"
    assert lab.words.read_text().splitlines() == codes[1:]
    (tmp_path / "used").write_text(codes[0])
    refused = ssh(lab, *ONCE, JUMP, answer=tmp_path / "used")
    assert "Permission denied (keyboard-interactive)" in refused.stderr
    if door == "key-and-code":  # the key comes first
        without = ssh(lab, "-o", "PreferredAuthentications=keyboard-interactive", JUMP, answer=lab.words)
        assert "Permission denied (publickey)" in without.stderr


@AS_ROOT
@pytest.mark.parametrize("end", [lambda lab: lab.up(door="open"), Lab.down])
def test_nothing_of_a_door_is_left_in_the_system(at: At, end: Callable[[Lab], object]) -> None:
    lab = at("code", "openssh")
    service = Path("/etc/pam.d") / f"rdtops-lab-{json.loads((lab.root / 'lab.json').read_text())['id']}"
    assert service.exists()
    end(lab)
    assert lab.words is None
    assert not service.exists()


@OF_SSHD
def test_oldkeys_is_refused_by_todays_ssh_and_passed_with_what_its_config_allows(at: At, tmp_path: Path) -> None:
    lab = at("oldkeys", "openssh")
    assert ssh(lab, "lab", "echo in").stdout == "in\n"
    defaults = ("-o", "KexAlgorithms=curve25519-sha256")
    assert "no matching key exchange method" in ssh(lab, *defaults, JUMP).stderr
    done = ssh(lab, "-o", "HostKeyAlgorithms=rsa-sha2-512,ssh-ed25519", JUMP)
    assert "no matching host key type found. Their offer: ssh-rsa" in done.stderr


# --- the menu

def test_a_menu_takes_no_command_and_forwards_nothing(at: At) -> None:
    lab = at("menu")
    done = ssh(lab, JUMP, "echo in")
    assert (done.returncode, done.stdout) == (0, "No PTY requested.\n")  # with success, as JumpServer
    assert "administratively prohibited" in ssh(lab, "-W", f"127.0.0.1:{lab.ports.lab}", JUMP).stderr
    assert "subsystem request failed" in ssh(lab, "-s", JUMP, "sftp").stderr


def test_a_menu_is_shown_at_a_terminal_and_leads_to_its_assets(at: At) -> None:
    lab = at("menu")
    said = ""
    with subprocess.Popen(["ssh", "-F", lab.ssh_config, "-tt", JUMP], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        assert process.stdin
        for typed, answer in (("", "2) lab2\r\n"), ("nowhere", "No such asset: nowhere\r\n"),
                              ("2\recho at $RDTOPS_LAB", "\rat lab2\r\n"), ("exit", "Opt> "), ("q", "")):
            os.write(process.stdin.fileno(), f"{typed}\r".encode() if typed else b"")
            said += read_until(process, answer) if answer else ""
        assert process.wait(10) == 0, said


@pytest.mark.parametrize("backend", [pytest.param("openssh", marks=OF_SSHD), "asyncssh"])
def test_the_direct_form_of_a_menu_is_the_asset_itself(at: At, backend: str, tmp_path: Path) -> None:
    lab = at("menu", backend)
    done = ssh(lab, "lab", 'cat; echo "$RDTOPS_LAB"; echo oops >&2; exit 7', stdin=b"bytes\0\n" * 100_000)
    assert (done.returncode, done.stderr) == (7, "oops\n")
    assert done.stdout == "bytes\0\n" * 100_000 + "lab\n"
    assert ssh(lab, "-tt", "lab2", "tty; echo $RDTOPS_LAB").stdout.split()[1] == "lab2"
    (tmp_path / "there").write_bytes(os.urandom(3_000_000))
    batch = tmp_path / "batch"
    batch.write_text(f"put {tmp_path / 'there'} there\nget there {tmp_path / 'back'}\n")
    done = ssh(lab, "-b", str(batch), "lab", program=("sftp", "-q"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()


def test_the_direct_form_says_what_it_does_not_know(at: At) -> None:
    lab = at("menu")
    lab.write_routes()
    me = tomllib.loads((lab.root / "hosts.toml").read_text())["jumps"][JUMP]["user"]
    done = ssh(lab, "-l", f"{me}@{me}@lab3", JUMP, "true")
    assert (done.returncode, done.stdout.strip()) == (1, "No such asset: lab3; assets: lab, lab2")
    assert ssh(lab, "-l", f"{me}@nobody@lab", JUMP, "true").returncode == 1
    assert "Permission denied" in ssh(lab, "-l", f"somebody@{me}@lab", JUMP, "true").stderr


# --- the lab with a door

def test_the_lab_tells_its_door_keeps_it_while_it_is_up_and_opens_it_when_it_was_down(at: At) -> None:
    lab = at("noforward")
    assert lab.up().started == ()
    assert [row.door for row in lab.status()] == ["noforward", "", ""]
    assert json.loads((lab.root / "lab.json").read_text())["door"] == "noforward"
    assert lab.up(door="menu").started
    assert "door menu" in lab.up().words
    lab.down()
    lab.up()
    assert lab.door == doors.OPEN


@pytest.mark.parametrize(("door", "backend", "words"), [
    ("revolving", "auto", "no door 'revolving'"),
    ("key-and-code", "asyncssh", "needs sshd, and this lab runs on asyncssh"),
    ("oldkeys", "asyncssh", "needs sshd, and this lab runs on asyncssh"),
])
def test_a_door_that_cannot_be_played_is_refused_before_anything_changes(at: At, door: str, backend: str,
                                                                        words: str) -> None:
    lab = at("open")
    before = [row.pid for row in lab.status()]
    with pytest.raises(LabError) as raised:
        lab.up(backend, door)
    assert words in raised.value.message
    assert raised.value.remedy
    assert [row.pid for row in lab.status()] == before


def test_a_door_that_needs_root_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doors.played_by("password", "openssh") == "asyncssh"
    with pytest.raises(LabError, match="needs PAM: sshd asks PAM only as root"):
        doors.played_by("key-and-code", "openssh")


# --- what rdtops makes of each door

IN, TOML, ALIAS = "in", "hosts.toml", "ssh_config"
NO_TERMINAL = ", and there is no terminal to answer at"
OUTCOMES = [  # door, what says the way, to which server, whether a person answers, what comes of it
    ("open", TOML, "lab", False, IN),
    ("noforward", TOML, "lab", False, IN),  # by its relay
    ("noforward", ALIAS, "lab", False, f"{JUMP} (USER) forbids forwarding to lab"),
    ("password", TOML, "lab", True, IN),
    ("password", TOML, "lab", False, f"asks 'password:'{NO_TERMINAL}"),
    ("password", ALIAS, "lab", True, IN),
    ("code", TOML, "lab", True, IN),
    ("code", ALIAS, "lab", True, IN),
    pytest.param("key-and-code", TOML, "lab", True, IN, marks=AS_ROOT),
    pytest.param("key-and-code", TOML, "lab", False, f"asks 'Password:'{NO_TERMINAL}", marks=AS_ROOT),
    pytest.param("key-and-code", ALIAS, "lab", True, IN, marks=AS_ROOT),
    ("menu", TOML, "lab", False, IN),  # its direct form
    ("menu", ALIAS, "lab", False, IN),
    ("menu", ALIAS, JUMP, False, "it printed: No PTY requested."),
    pytest.param("oldkeys", TOML, "lab", False, "it is too old for Fabric", marks=OF_SSHD),
    pytest.param("oldkeys", ALIAS, "lab", False, IN, marks=OF_SSHD),  # with what its ssh_config allows
]


@pytest.mark.parametrize(("door", "way", "name", "person", "outcome"), OUTCOMES)
def test_what_comes_of_a_door(at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str, way: str, name: str,
                              person: bool, outcome: str) -> None:
    lab = at(door)
    monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(lab.ssh_config))
    hosts = tmp_path / "hosts.toml"
    hosts.write_text("[assets]\n")
    if way == TOML:
        lab.write_inventory(hosts, {})
    host = replace(inventory.load(hosts).host(name), connect_timeout_s=10)
    words = lab.words
    asked: list[str] = []

    def ask(question: str, echo: bool) -> str:
        asked.append(f"{question} {echo}")
        assert words is not None
        return words.read_text().split()[0]

    with Connection(host, ask if person else None) as connection:
        if outcome == IN:
            assert [connection.run(Command("echo", IN)).out for _ in range(2)] == ["in\n", "in\n"]
        else:
            with pytest.raises(RdtopsError) as raised:
                connection.run(Command("echo", IN))
            assert outcome.replace("USER", host.route[0].where) in raised.value.message
            assert raised.value.remedy
    assert len(asked) == person
