"""known_hosts and ssh_config as anybody may have left them: read as ssh reads them, and never a traceback."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdtops.errors import RdtopsError
from rdtops.ssh import inventory
from rdtops.ssh.hosts import Hop, SshOptions
from rdtops.ssh.login import known_hosts, ssh_config
from rdtops.ssh.login.known_hosts import CHANGED, IS_REVOKED, KNOWN, NEW, KnownHosts

LOOSE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def blob(letter: str, kind: str = "ssh-ed25519") -> bytes:
    return len(kind).to_bytes(4, "big") + kind.encode() + (32).to_bytes(4, "big") + letter.encode() * 32


def line(hosts: str, letter: str, kind: str = "ssh-ed25519") -> str:
    return f"{hosts} {kind} {base64.b64encode(blob(letter, kind)).decode()}\n"


@pytest.mark.parametrize(("content", "verdict"), [
    ("", NEW), (line("gpu", "a"), KNOWN), (line("GPU,192.0.2.1", "a"), KNOWN), (line("gpu", "b"), CHANGED),
    (line("gpu", "b") + line("gpu", "a"), KNOWN), (line("gpu", "b", "ssh-rsa"), NEW), (line("other", "a"), NEW),
    (line("g?u", "a"), KNOWN), (line("*,!gpu", "a"), NEW),
    ("@revoked " + line("*", "a") + line("gpu", "a"), IS_REVOKED),
    ("@cert-authority " + line("*", "a"), NEW), ("# " + line("gpu", "a"), NEW), (line("gpu", "a")[:40], NEW),
    ("gpu ssh-rsa !!!\n" + line("gpu", "a"), KNOWN), ("|1|x|y ssh-ed25519 AAAA\n" + line("gpu", "a"), KNOWN),
])
def test_the_verdict_on_a_key(tmp_path: Path, content: str, verdict: str) -> None:
    (tmp_path / "known").write_text(content)
    hop = Hop(name="gpu", address="gpu", known_hosts=str(tmp_path / "known"))
    assert KnownHosts(hop).verdict("ssh-ed25519", blob("a")) == verdict


def test_a_port_has_keys_of_its_own_and_those_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "known").write_text(line("gpu", "a") + line("[gpu]:2222", "b"))
    hop = Hop(name="gpu", address="gpu", port=2222, known_hosts=str(tmp_path / "known"))
    assert KnownHosts(hop).verdict("ssh-ed25519", blob("b")) == KNOWN
    assert KnownHosts(hop).verdict("ssh-ed25519", blob("a")) == CHANGED
    assert KnownHosts(replace(hop, port=2223)).verdict("ssh-ed25519", blob("a")) == KNOWN
    assert KnownHosts(replace(hop, ssh=SshOptions(host_key_alias="other"))).verdict("ssh-ed25519", blob("a")) == NEW


def test_what_cannot_be_read_is_noted_with_its_line_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("gpu ssh-rsa\n\n" + line("gpu", "a") + "@what gpu a b\n")
    hop = Hop(name="gpu", address="gpu", known_hosts=str(tmp_path / "known"))
    assert known_hosts.notes_of([hop, hop]) == [
        f"{tmp_path}/known:1: skipped: not a host, a kind of key and a key",
        f"{tmp_path}/known:4: skipped: unknown marker @what"]


@LOOSE
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_no_known_hosts_is_a_traceback(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "known").write_bytes(content + b"\n" + line("gpu", "a").encode())
    known = KnownHosts(Hop(name="gpu", address="gpu", known_hosts=str(tmp_path / "known")))
    assert known.verdict("ssh-ed25519", blob("a")) in (KNOWN, IS_REVOKED)
    assert all(str(tmp_path) in note for note in known.notes)


@settings(parent=LOOSE, max_examples=25)
@given(st.lists(st.sampled_from(["Host *", "Host gpu", "Match all", "Match exec true", "ProxyJump gpu", "ProxyJump a,b",
                                 "ProxyJump none", "Port 22", "Port x", "IdentityFile %x", 'IdentityFile "', "User a b",
                                 "UserKnownHostsFile", "HostName %h", "Include *", "ConnectTimeout 0", "\x00",
                                 "HostName -x", "IdentityAgent ~", "ProxyJump [::1", "HostKeyAlias *", "BogusOption 1"])
                | st.text(max_size=20), max_size=8))
def test_no_ssh_config_is_a_traceback(tmp_path: Path, lines: list[str]) -> None:
    file = tmp_path / "config"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert said_by(lambda: ssh_config.transport(ssh_config.host("gpu", {}, file))) in ("", "with a remedy")
    ssh_config.aliases(file)


def said_by(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except RdtopsError as error:
        return "with a remedy" if error.message and error.remedy else error.message
    return ""


@settings(parent=LOOSE, max_examples=40)
@given(st.text(max_size=30), st.text(max_size=20), st.integers(-1, 70000))
def test_no_hosts_toml_is_a_traceback(tmp_path: Path, text: str, address: str, port: int) -> None:
    file = tmp_path / "hosts.toml"
    quoted = '"' + "".join(f"\\U{ord(letter):08x}" if ord(letter) < 0xd800 or ord(letter) > 0xdfff else "" for letter in
                           address) + '"'
    file.write_text(f"[hosts.gpu]\naddress = {quoted}\nport = {port}\n{text}\n", encoding="utf-8", errors="replace")
    said = said_by(lambda: inventory.load(file).host("gpu").route_words)
    assert said in ("", "with a remedy") or "hosts.toml" in said


@pytest.mark.parametrize("user", ["a b", 'a"b', "a\nb", "me@root@box", "ü", "%r", "$(id)"])
def test_a_user_of_any_name_reaches_ssh_as_it_is_or_is_refused(tmp_path: Path, user: str) -> None:
    from rdtops.ssh import openssh_config
    from rdtops.ssh.hosts import Host

    host = Host(name="gpu", address="192.0.2.1", user=user)
    try:
        file = openssh_config.write_config(host, tmp_path)
    except (RdtopsError, ValueError):
        assert '"' in user or "\n" in user
        return
    said = subprocess.run(["ssh", "-G", "-F", str(file), openssh_config.destination(host)], capture_output=True,
                          encoding="utf-8", check=True).stdout
    assert f"user {user}\n" in said
