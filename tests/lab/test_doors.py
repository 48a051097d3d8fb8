"""The doors of the lab's jump host: what plain ssh makes of each, and what rdtops does."""

from __future__ import annotations

import getpass
import json
import os
import re
import select
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.errors import LabError, LoginShellError, RdtopsError, Unreachable
from rdtops.lab import doors, sshd
from rdtops.lab.ports import Ports
from rdtops.lab.site import JUMP, Lab
from rdtops.ssh import inventory
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import FABRIC, OPENSSH, Host
from tests.lab.moves import MIB, random_file, upload

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

IN = "in"
NOBODY = "no terminal to answer at"
OUTCOMES = [  # door, lines for the jump in hosts.toml, whether a person answers, what comes of it by each transport
    ("open", "", False, IN, IN),
    ("menu", "", False, IN, IN),  # its direct form
    ("noforward", "", False, f"{JUMP} (", f"{JUMP} ("),
    ("noforward", "relay = true\n", False, IN, IN),
    pytest.param("key-and-code", "", True, IN, IN, marks=AS_ROOT),
    pytest.param("key-and-code", "", False, NOBODY, "it accepts keyboard-interactive", marks=AS_ROOT),
    pytest.param("code", "", True, IN, IN, marks=AS_ROOT),
    pytest.param("code", "", False, NOBODY, "it accepts keyboard-interactive", marks=AS_ROOT),
    pytest.param("password", "", True, IN, IN, marks=AS_ROOT),
    pytest.param("password", "", False, NOBODY, "it accepts password", marks=AS_ROOT),
    pytest.param("oldkeys", "", False, "have no algorithm in common", "too old for this OpenSSH", marks=OF_SSHD),
]


@pytest.mark.parametrize("transport", [FABRIC, OPENSSH])
@pytest.mark.parametrize(("door", "of_jump", "answers", "by_fabric", "by_openssh"), OUTCOMES)
def test_what_comes_of_a_door(at: At, tmp_path: Path, door: str, of_jump: str, answers: bool, by_fabric: str,
                              by_openssh: str, transport: str, home: None) -> None:
    lab = at(door)
    file = tmp_path / "hosts.toml"
    lab.write_inventory(file, {})
    without = file.read_text().replace(doors.KEYS_OF_THE_JUMP.get(door, "\0"), "")
    file.write_text(re.sub(r"(\[jumps\..*\]\n)", rf"\g<1>{of_jump}", without))
    host = replace(inventory.load(file).host("lab"), connect_timeout_s=10, transport=transport)
    words, outcome = lab.words, {FABRIC: by_fabric, OPENSSH: by_openssh}[transport]
    asked: list[str] = []

    def ask(question: str, echo: bool) -> str:
        asked.append(f"{question} {echo}")
        assert words is not None
        return words.read_text().split()[0]

    with Connection(host, ask if answers else None) as connection:
        if outcome == IN:
            assert [connection.run(Command("echo", IN)).out for _ in range(2)] == ["in\n", "in\n"]
            big = random_file(tmp_path / "big", 33 * MIB)  # large enough for streams
            upload(connection, big, tmp_path / "there")
            assert (tmp_path / "there").read_bytes() == big.read_bytes()
        else:
            with pytest.raises(RdtopsError, match=re.escape(outcome)) as raised:
                connection.run(Command("echo", IN))
            assert raised.value.remedy
    assert len(asked) == (1 if answers else 0)


def test_a_server_that_takes_one_request_for_the_service_is_passed(at: At, tmp_path: Path) -> None:
    """As those of asyncssh and Go: they hang up when an attempt of a login asks for ssh-userauth anew."""
    lab = at("password", "asyncssh")
    lab.write_inventory(tmp_path / "hosts.toml", {})
    assert lab.words is not None
    password = lab.words.read_text().split()[0]
    with Connection(inventory.load(tmp_path / "hosts.toml").host("lab"), lambda *_: password) as connection:
        assert connection.run(Command("echo", IN)).out == "in\n"


@OF_SSHD
def test_an_old_server_is_passed_with_what_the_user_s_ssh_config_allows(at: At, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    lab = at("oldkeys", "openssh")
    monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(lab.ssh_config))
    (tmp_path / "hosts.toml").write_text('[hosts.mine]\nssh_alias = "lab"\n')
    host = inventory.load(tmp_path / "hosts.toml").host("mine")
    assert host.only_openssh == f"hostkeyalgorithms of {JUMP}"
    with Connection(host) as connection:
        assert connection.run(Command("echo", IN)).out == "in\n"


@pytest.mark.parametrize("transport", [FABRIC, OPENSSH])
def test_a_menu_is_told_with_its_words(at: At, tmp_path: Path, transport: str) -> None:
    """It lets us in, and answers a command with words of its own and exit code 0."""
    lab = at("menu")
    me = getpass.getuser()
    host = Host(name="bastion", address="127.0.0.1", port=lab.ports.jump, user=me, transport=transport,
                identity_file=str(lab.identity_file), known_hosts=str(lab.known_hosts))
    with Connection(host) as connection:
        with pytest.raises(LoginShellError, match=r"No PTY requested\.") as raised:
            connection.run(Command("true"))
        assert "a menu" in raised.value.remedy
    with Connection(replace(host, name="lab", address="127.0.0.1", port=lab.ports.lab, jumps=(host,))) as connection, \
            pytest.raises(Unreachable, match="forbids forwarding"):
        connection.open()
