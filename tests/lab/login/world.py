"""A world of sshd that the lab did not make: a jump, a second jump and a GPU host, and the keys of a person."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdtops.lab.ports import free_ports

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
NAMES = ("jump", "mid", "gpu")


@dataclass
class World:
    """Its servers by name with their ports, and a folder with the files of a person."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def key(self) -> Path:
        """The private key that every server accepts."""
        return self.folder / "id"

    def host_key(self, name: str) -> str:
        """Return `kind key` of a server, as in known_hosts."""
        return " ".join((self.folder / f"{name}_host.pub").read_text().split()[:2])

    def entry(self, name: str) -> str:
        return f"[127.0.0.1]:{self.ports[name]} {self.host_key(name)}\n"

    @property
    def words(self) -> dict[str, str]:
        """The words that a configuration may use."""
        return {"J": str(self.ports["jump"]), "M": str(self.ports["mid"]), "G": str(self.ports["gpu"]),
                "user": getpass.getuser(), "id": str(self.key)}

    def start(self, name: str, lines: str = "") -> None:
        """Start a server; `lines` of sshd_config go before its own."""
        config = self.folder / f"{name}_sshd"
        certificate = self.folder / f"{name}_host-cert.pub"
        config.write_text(
            f"{lines}Port {self.ports[name]}\nListenAddress 127.0.0.1\nListenAddress ::1\n"
            f"HostKey {self.folder / f'{name}_host'}\nHostKey {self.folder / f'{name}_rsa'}\n"
            + (f"HostCertificate {certificate}\n" if certificate.exists() else "")
            + f"AuthorizedKeysFile {self.key}.pub\nTrustedUserCAKeys {self.folder / 'ca.pub'}\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\n"
            "UsePAM no\nMaxAuthTries 6\nSubsystem sftp internal-sftp\n")
        with (self.folder / f"{name}.log").open("ab") as log:
            self.servers[name] = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log,
                                                  start_new_session=True)
        wait_for(self.ports[name])

    def stop(self) -> None:
        for process in self.servers.values():
            process.terminate()
            process.wait()


def make_key(file: Path, *words: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", file.name, "-f", str(file), *words],
                   check=True, capture_output=True)


def sign(authority: Path, key: Path, *words: str) -> None:
    """Write KEY-cert.pub, signed by an authority."""
    subprocess.run(["ssh-keygen", "-q", "-s", str(authority), "-I", key.name, *words, f"{key}.pub"], check=True,
                   capture_output=True)


@contextlib.contextmanager
def world(folder: Path, **lines: str) -> Iterator[World]:
    """Start the servers; `lines` of sshd_config by the name of a server."""
    Path("/run/sshd").mkdir(exist_ok=True)
    made = World(folder, dict(zip(NAMES, free_ports(len(NAMES)), strict=True)))
    make_key(made.key)
    make_key(folder / "ca")
    for name in NAMES:
        make_key(folder / f"{name}_host")
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(folder / f"{name}_rsa")],
                       check=True)
    sign(folder / "ca", folder / "gpu_host", "-h", "-n", "127.0.0.1,gpu-key")
    (folder / "known").write_text("".join(map(made.entry, NAMES)))
    try:
        for name in NAMES:
            made.start(name, lines.get(name, ""))
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def agent(folder: Path, keys: Sequence[Path]) -> Iterator[Path]:
    """An agent that holds keys, in this order; give its socket."""
    way = folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(way)], stdout=subprocess.DEVNULL) as process:
        try:
            while not way.exists():
                time.sleep(0.01)
            for key in keys:
                subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, "SSH_AUTH_SOCK": str(way)}, check=True,
                               capture_output=True)
            yield way
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
