"""ssh_config as ssh means it: where `ssh -F config HOST true` gets in, so do we, the same way; and nowhere else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdtops.errors import RdtopsError
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import FABRIC, OPENSSH
from rdtops.ssh.inventory import load
from rdtops.ssh.login import ssh_config
from rdtops.ssh.openssh_client import SshClient
from tests.lab.login import world as worlds
from tests.lab.login.world import World

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path(worlds.SSHD).exists(), reason="sshd needs root for a login"),
]

BASE = """
Host jmp
  HostName 127.0.0.1
  Port {J}
Host mid
  HostName 127.0.0.1
  Port {M}
Host gpu
  HostName 127.0.0.1
  Port {G}
  ProxyJump jmp
"""
OWN = """
Host *
  User {user}
  IdentityFile {id}
  UserKnownHostsFile {known}
"""
DIRECT = "Host gpu\n  HostName 127.0.0.1\n  Port {G}\n"
NO_FILES = "Host *\n  User {user}\n  UserKnownHostsFile {known}\n"  # and no IdentityFile
Prepare = Callable[[World], None]


@dataclass(frozen=True)
class Row:
    """A configuration; `gets_in` is what ssh does with it, which the test asks ssh too."""

    config: str
    gets_in: bool = True
    transport: str = FABRIC
    host: str = "gpu"
    known: Callable[[World], str] | None = None  # the content of the known_hosts file
    prepare: Prepare | None = None  # write files
    agent: tuple[str, ...] = ()  # names of the keys that an agent holds
    asks_ssh: bool = True  # False: ssh would start itself without end


def wrong_keys(world: World) -> None:
    for number in range(8):
        if not (world.folder / f"wrong{number}").exists():
            worlds.make_key(world.folder / f"wrong{number}")


def public_only(world: World) -> None:
    wrong_keys(world)
    (world.folder / "only.pub").write_text(Path(f"{world.key}.pub").read_text())


def locked(world: World) -> None:
    wrong_keys(world)
    shutil.copy(world.key, world.folder / "locked")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(world.folder / "locked")], check=True)


def certificate(world: World) -> None:
    for name in ("certified", "apart"):
        if not (world.folder / name).exists():
            worlds.make_key(world.folder / name)
            worlds.sign(world.folder / "ca", world.folder / name, "-n", "root")
    shutil.move(world.folder / "apart-cert.pub", world.folder / "apart.cert") if (
        world.folder / "apart-cert.pub").exists() else None


def open_to_others(world: World) -> None:
    shutil.copy(world.key, world.folder / "open")
    (world.folder / "open").chmod(0o644)


def pkcs8(world: World) -> None:
    key = world.folder / "pkcs8"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", "PKCS8", "-f", str(key)],
                       check=True)
        with Path(f"{world.key}.pub").open("a") as file:
            file.write(Path(f"{key}.pub").read_text())


def copies(*names: str) -> Prepare:
    def prepare(world: World) -> None:
        for name in names:
            (world.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(world.key, world.folder / name)
            (world.folder / name).chmod(0o600)
    return prepare


def included(world: World) -> None:
    folder = world.folder / "config.d"
    folder.mkdir(exist_ok=True)
    (folder / "a").write_text(f"Include {folder}/deeper\n")
    (folder / "deeper").write_text(DIRECT.format(**world.words))


def authority(world: World) -> str:
    key = " ".join((world.folder / "ca.pub").read_text().split()[:2])
    return f"@cert-authority [127.0.0.1]:* {key}\n{world.entry('jump')}"


def hashed(world: World) -> str:
    file = world.folder / "hashed"
    file.write_text("".join(world.entry(name) for name in worlds.NAMES))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    return file.read_text()


WRONG = tuple(f"wrong{number}" for number in range(8))
ROWS = {
    "plain": Row(BASE + OWN),
    "direct": Row(DIRECT + OWN),
    "no jump": Row(DIRECT + "  ProxyJump none\n" + OWN),
    "user@address:port": Row(DIRECT + "  ProxyJump {user}@127.0.0.1:{J}\n" + OWN),
    "ssh://": Row(DIRECT + "  ProxyJump ssh://{user}@127.0.0.1:{J}\n" + OWN),
    "an address in brackets": Row(DIRECT + "  ProxyJump [127.0.0.1]:{J}\n" + OWN),
    "IPv6": Row(DIRECT.replace("127.0.0.1", "::1") + OWN, known=lambda w: w.entry("gpu").replace("127.0.0.1", "::1")),
    "IPv6 jump": Row(DIRECT + "  ProxyJump {user}@[::1]:{J}\n" + OWN,
                     known=lambda w: w.entry("gpu") + w.entry("jump").replace("127.0.0.1", "::1")),
    "a list": Row(BASE.replace("ProxyJump jmp", "ProxyJump jmp,mid") + OWN),
    "a jump behind a jump": Row(BASE.replace("{M}", "{M}\n  ProxyJump jmp").replace("{G}\n  ProxyJump jmp",
                                                                                      "{G}\n  ProxyJump mid") + OWN),
    "the jump of a list has its own": Row(
        BASE.replace("{M}", "{M}\n  ProxyJump jmp").replace("{G}\n  ProxyJump jmp", "{G}\n  ProxyJump jmp,mid") + OWN),
    "the second of a list has a ProxyCommand": Row(
        BASE.replace("{M}", "{M}\n  ProxyCommand false").replace("{G}\n  ProxyJump jmp", "{G}\n  ProxyJump jmp,mid")
        + OWN),
    "user in the jump": Row(BASE.replace("ProxyJump jmp", "ProxyJump {user}@jmp") + OWN.replace(
        "Host *", "Host jmp\n  User nobody-here\nHost *")),
    "a loop": Row(BASE.replace("{J}", "{J}\n  ProxyJump gpu") + OWN, gets_in=False, asks_ssh=False),
    "include": Row("Include {dir}/config.d/*\n" + OWN, prepare=included),
    "quoted": Row(BASE.replace("Host gpu", 'Host "gpu"') + OWN),
    "a pattern": Row(BASE.replace("Host gpu", "Host gpu??") + OWN, host="gpu01"),
    "a pattern with a negation": Row(BASE.replace("Host gpu", "Host g* !gpv") + OWN),
    "match host": Row(BASE.replace("Host gpu", "Match originalhost gpu") + OWN),
    "match exec": Row(BASE + 'Match host 127.0.0.1 exec "true"\n  User {user}\n' + OWN),
    "match user": Row(BASE.replace("Host gpu", "Host gpu\n  User {user}") + "Match user {user}\n  Compression no\n"
                      + OWN),
    "key=value, tabs, capitals": Row("HOST=gpu\n\tHOSTNAME = 127.0.0.1\n\tPORT={G}\n" + OWN),
    "HostName with a token": Row("Host 1\n  HostName 127.0.0.%h\n  Port {G}\n" + OWN, host="1"),
    "alias of a key": Row(DIRECT + "  HostKeyAlias gpu-key\n" + OWN, known=lambda w: f"gpu-key {w.host_key('gpu')}\n"),
    "alias of another's key": Row(DIRECT + "  HostKeyAlias gpu-key\n" + OWN, False,
                                  known=lambda w: w.entry("gpu") + f"gpu-key {w.host_key('mid')}\n"),
    "the second known_hosts": Row(BASE + OWN.replace("{known}", "{dir}/none {known}")),
    "a global known_hosts": Row(BASE + OWN.replace("UserKnownHostsFile", "UserKnownHostsFile {dir}/none\n"
                                                   "  GlobalKnownHostsFile")),
    "no known_hosts of the user": Row(BASE + OWN.replace("UserKnownHostsFile", "UserKnownHostsFile none\n"
                                                         "  GlobalKnownHostsFile")),
    "no known_hosts at all": Row(BASE + OWN.replace("{known}", "/dev/null"), False),
    "hashed": Row(BASE + OWN, known=hashed),
    "a wildcard": Row(DIRECT + OWN, known=lambda w: f"[127.0.0.?]:* {w.host_key('gpu')}\n"),
    "a negated wildcard": Row(DIRECT + OWN, False,
                              known=lambda w: f"*,!127.0.0.1,![127.0.0.1]:* {w.host_key('gpu')}\n"),
    "a key without a port": Row(DIRECT + OWN, known=lambda w: f"127.0.0.1 {w.host_key('gpu')}\n"),
    "broken lines": Row(BASE + OWN, known=lambda w: "@cert-authority * ssh-ed25519 AAAA\ngpu ssh-rsa AAAAB3\n"
                        "@what x y z\n\x80\n" + w.entry("jump") + w.entry("gpu")),
    "revoked": Row(DIRECT + OWN, False, known=lambda w: f"@revoked * {w.host_key('gpu')}\n{w.entry('gpu')}"),
    "changed": Row(BASE + OWN, False, known=lambda w: w.entry("jump") + w.entry("gpu").replace(
        w.host_key("gpu"), w.host_key("mid"))),
    "not known": Row(BASE + OWN, False, known=lambda w: w.entry("jump")),
    "only the rsa key": Row(DIRECT + OWN, known=lambda w: f"[127.0.0.1]:{w.ports['gpu']} "
                            + " ".join((w.folder / "gpu_rsa.pub").read_text().split()[:2]) + "\n"),
    "a certificate authority": Row(BASE + OWN, transport=OPENSSH, known=authority),
    "the first IdentityFile is missing": Row(BASE + "Host *\n  IdentityFile {dir}/none\n" + OWN),
    "IdentityFile with tokens": Row(DIRECT + OWN.replace("{id}", "{dir}/%r/%h"), prepare=copies("root/127.0.0.1")),
    "IdentityFile with a blank": Row(DIRECT + OWN.replace("{id}", '"{dir}/my key"'), prepare=copies("my key")),
    "IdentityFile with a variable": Row(DIRECT + OWN.replace("{id}", "${{RDTOPS_TEST_FOLDER}}/id")),
    "the agent's key of a .pub": Row(BASE + NO_FILES + "  IdentityFile {dir}/only.pub\n  IdentitiesOnly yes\n",
                                     prepare=public_only, agent=(*WRONG, "id")),
    "the agent's key of a locked file": Row(BASE + NO_FILES + "  IdentityFile {dir}/locked\n  IdentitiesOnly yes\n",
                                            prepare=locked, agent=(*WRONG, "id")),
    "a locked file alone": Row(BASE + NO_FILES + "  IdentityFile {dir}/locked\n  IdentitiesOnly yes\n", False,
                               prepare=locked),
    "the agent's key of a file, among many": Row(BASE + OWN, prepare=wrong_keys, agent=(*WRONG, "id")),
    "too many keys": Row(BASE + OWN, False, prepare=wrong_keys, agent=WRONG),
    "too many keys, and only one is offered": Row(BASE + OWN + "  IdentitiesOnly yes\n", prepare=wrong_keys,
                                                  agent=WRONG),
    "another agent": Row(BASE + NO_FILES + "  IdentityFile {dir}/only.pub\n  IdentityAgent {dir}/agent\n",
                         prepare=public_only, agent=("id",)),
    "no agent": Row(BASE + NO_FILES + "  IdentityFile {dir}/only.pub\n  IdentityAgent none\n", False,
                    prepare=public_only, agent=("id",)),
    "a key that is open to others": Row(DIRECT + OWN.replace("{id}", "{dir}/open"), False, prepare=open_to_others),
    "no IdentityFile": Row(DIRECT + OWN.replace("{id}", "none"), False),
    "an RSA key in PKCS8": Row(DIRECT + OWN.replace("{id}", "{dir}/pkcs8"), prepare=pkcs8),
    "tokens of the jump": Row(BASE.replace("ProxyJump jmp", "ProxyJump %r@jmp") + OWN),
    "all of it in Host *": Row("Host localhost\n" + OWN + "  Port {G}\n", host="localhost",
                              known=lambda w: f"[localhost]:{w.ports['gpu']} {w.host_key('gpu')}\n"),
    "a certificate beside the key": Row(DIRECT + OWN.replace("{id}", "{dir}/certified"), transport=OPENSSH,
                                        prepare=certificate),
    "a certificate elsewhere": Row(DIRECT + OWN.replace("{id}", "{dir}/apart\n  CertificateFile {dir}/apart.cert"),
                                   transport=OPENSSH, prepare=certificate),
    "ProxyCommand": Row(DIRECT + "  ProxyCommand ssh -F {config} -W %h:%p jmp\n" + BASE + OWN, transport=OPENSSH),
    "ProxyCommand of the jump": Row(BASE.replace("{J}", "{J}\n  ProxyCommand ssh -F {config} -W %h:%p mid") + OWN,
                                    transport=OPENSSH),
    "ProxyCommand none": Row(BASE.replace("{G}", "{G}\n  ProxyCommand none") + OWN, gets_in=True),
    "a ProxyCommand that fails": Row(DIRECT + "  ProxyCommand false\n" + OWN, False, OPENSSH),
    "KnownHostsCommand": Row(DIRECT + "  KnownHostsCommand /bin/cat {known}\n" + OWN.replace(
        "{known}", "/dev/null"), transport=OPENSSH),
    "ciphers": Row(BASE + OWN + "  Ciphers aes256-ctr\n  MACs hmac-sha2-256\n", transport=OPENSSH),
    "kinds of host key": Row(DIRECT + OWN + "  HostKeyAlgorithms rsa-sha2-512\n", transport=OPENSSH,
                             known=lambda w: f"[127.0.0.1]:{w.ports['gpu']} "
                             + " ".join((w.folder / "gpu_rsa.pub").read_text().split()[:2]) + "\n"),
    "address family": Row(DIRECT + OWN + "  AddressFamily inet\n", transport=OPENSSH),
    "bind address": Row(DIRECT + OWN + "  BindAddress 127.0.0.1\n", transport=OPENSSH),
    "canonical names": Row(BASE + OWN + "  CanonicalizeHostname yes\n", transport=OPENSSH),
    "a master of the user's own": Row(BASE + OWN + "  ControlMaster auto\n  ControlPath {dir}/%C\n"
                                      "  ControlPersist 2\n"),
    "forwardings": Row(BASE + OWN + "  LocalForward 1 localhost:1\n  RemoteForward 0 localhost:1\n"
                       "  ForwardAgent yes\n"),
    "what does not matter": Row(BASE + OWN + "  Compression yes\n  SendEnv LANG\n  ServerAliveInterval 7\n"
                                "  IPQoS none\n  RekeyLimit 1G\n  LogLevel QUIET\n  RequestTTY no\n"
                                "  BatchMode yes\n"),
    "set a variable": Row(BASE + OWN + "  SetEnv LC_X=1\n", transport=OPENSSH),
    "wait a little": Row(BASE + OWN + "  ConnectTimeout 15\n"),
    "no keys": Row(BASE + OWN + "  PubkeyAuthentication no\n", False, OPENSSH),
    "passwords only": Row(BASE + OWN + "  PreferredAuthentications password\n", False, OPENSSH),
    "an unknown user": Row(DIRECT + "  User nobody-here\n" + OWN, False),
    "a closed port": Row(BASE.replace("Port {G}", "Port 1") + OWN, False),
    "a jump with a closed port": Row(BASE.replace("Port {J}", "Port 1") + OWN, False),
    "an unknown name": Row(DIRECT.replace("127.0.0.1", "no-such-host.invalid") + OWN, False),
    "an unknown option": Row(BASE + OWN + "  NoSuchOption yes\n", False),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with worlds.world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.mark.parametrize("name", ROWS)
def test_where_ssh_gets_in_we_get_in_and_nowhere_else(name: str, world: World, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    row, config, known = ROWS[name], tmp_path / "config", tmp_path / "known"
    known.write_text(row.known(world) if row.known else "".join(map(world.entry, worlds.NAMES)), encoding="latin-1")
    if row.prepare:
        row.prepare(world)
    config.write_text(row.config.format(**world.words, dir=world.folder, known=known, config=config))
    monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(config))
    monkeypatch.setenv("RDTOPS_TEST_FOLDER", str(world.folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "hosts.toml").write_text("")
    with contextlib.ExitStack() as stack:
        if row.agent:
            way = stack.enter_context(worlds.agent(world.folder, [world.folder / key for key in row.agent]))
            if "IdentityAgent" not in row.config:
                monkeypatch.setenv("SSH_AUTH_SOCK", str(way))
        if row.asks_ssh:
            assert says(["ssh", "-F", str(config), "-o", "BatchMode=yes", row.host, "echo $SSH_CONNECTION"]
                        ) == row.gets_in
        assert gets_in(tmp_path / "hosts.toml", row) == row.gets_in


def says(command: list[str]) -> bool:
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    return said.returncode == 0 and bool(said.stdout.strip())


def gets_in(hosts: Path, row: Row) -> bool:
    """Return whether the control connection gets in, and so a lane of a transfer and, where it is a session of the same
    master, the terminal."""
    try:
        host = load(hosts).host(row.host)
        with Connection(host) as connection:
            assert connection.run_shell("echo $SSH_CONNECTION").ok
            assert ssh_config.transport(host) == row.transport
            if row.transport == OPENSSH:
                with connection.terminal("echo $SSH_CONNECTION") as command:
                    assert says([word for word in command if word != "-t"])
    except RdtopsError as error:
        return not (error.message and error.remedy)
    if row.transport == OPENSSH or len(host.route) > 1 or row.agent:  # the rest is the same configuration, a hop less
        with SshClient(host) as client:
            assert client.absolute("x").endswith("/x")
    return True
