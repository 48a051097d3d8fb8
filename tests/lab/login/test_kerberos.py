"""A host that takes a Kerberos ticket and no key: a real KDC, and sshd with GSSAPI."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.errors import AuthenticationFailed
from rdtops.lab.ports import free_ports
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.inventory import load
from rdtops.ssh.openssh_client import SshClient
from tests.lab.login import world as worlds

NEEDED = ("krb5kdc", "kadmin.local", "kdb5_util", "kinit")
PROGRAMS = f"{os.environ['PATH']}:/usr/sbin"
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path(worlds.SSHD).exists(), reason="sshd needs root for a login"),
    pytest.mark.skipif(not all(shutil.which(name, path=PROGRAMS) for name in NEEDED),
                       reason="no KDC here: apt-get install krb5-kdc krb5-admin-server krb5-user"),
]
REALM, PASSWORD = "LAB.EXAMPLE", "a password of nobody"


@pytest.fixture
def realm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A KDC on loopback with this user and the host `localhost`; give its folder."""
    (port,) = free_ports(1)
    (tmp_path / "krb5.conf").write_text(
        f"[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\nrdns = false\n"
        f"[realms]\n{REALM} = {{\nkdc = 127.0.0.1:{port}\n}}\n[domain_realm]\nlocalhost = {REALM}\n")
    (tmp_path / "kdc.conf").write_text(
        f"[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n{REALM} = {{\n"
        f"database_name = {tmp_path}/principal\nkey_stash_file = {tmp_path}/stash\n}}\n")
    monkeypatch.setenv("PATH", PROGRAMS)
    for name, value in (("KRB5_CONFIG", "krb5.conf"), ("KRB5_KDC_PROFILE", "kdc.conf"), ("KRB5CCNAME", "ticket"),
                        ("KRB5_KTNAME", "keytab")):
        monkeypatch.setenv(name, str(tmp_path / value))
    run(["kdb5_util", "create", "-s", "-r", REALM, "-P", "master"])
    run(["kadmin.local", "-r", REALM, "-q", f"addprinc -pw \"{PASSWORD}\" {getpass.getuser()}"])
    run(["kadmin.local", "-r", REALM, "-q", "addprinc -randkey host/localhost"])
    run(["kadmin.local", "-r", REALM, "-q", f"ktadd -k {tmp_path}/keytab host/localhost"])
    with subprocess.Popen(["krb5kdc", "-n", "-r", REALM], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        worlds.wait_for(port)
        yield tmp_path
        process.terminate()


def run(command: list[str], stdin: str = "") -> None:
    subprocess.run(command, input=stdin.encode(), check=True, capture_output=True)


def test_a_ticket_lets_in_and_without_one_both_are_refused(realm: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "GSSAPIAuthentication yes\nGSSAPIStrictAcceptorCheck no\nAuthenticationMethods gssapi-with-mic\n"
    with worlds.world(tmp_path, gpu=lines) as world:
        (tmp_path / "known").write_text(f"[localhost]:{world.ports['gpu']} {world.host_key('gpu')}\n")
        (tmp_path / "config").write_text(
            f"Host gpu\n  HostName localhost\n  Port {world.ports['gpu']}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {world.key}\n  UserKnownHostsFile {tmp_path}/known\n  GSSAPIAuthentication yes\n")
        monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(tmp_path / "config"))
        (tmp_path / "hosts.toml").write_text("")
        host = load(tmp_path / "hosts.toml").host("gpu")
        with Connection(host) as connection, pytest.raises(AuthenticationFailed, match="gssapi-with-mic"):
            connection.open()
        run(["kinit", getpass.getuser()], stdin=PASSWORD + "\n")
        with Connection(host) as connection:
            assert connection.run(Command("echo", "in")).out == "in\n"
            with SshClient(connection.host) as client:
                assert client.absolute("x").endswith("/x")
