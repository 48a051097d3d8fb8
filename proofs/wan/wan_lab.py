"""WanLab: laptop -> jump -> gpu in three network namespaces, over real SSH. Needs root, gcc and iproute2.

    with WanLab(".lab/wan") as lab:
        lab.up("far")
        subprocess.run([*lab.laptop, "scp", "-F", lab.ssh_config, "file", "gpu:/tmp/file"])

The profile is that of the line between laptop and jump; jump and gpu are in one local network. The machines share this
machine's files, not its network: the laptop reaches the gpu only through the jump. Each has its own empty home.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from proofs.wan import profile as profiles
from proofs.wan.namespace import Namespace
from proofs.wan.ping import Echo
from proofs.wan.profile import Profile
from proofs.wan.wan_link import End, Link, kernel_has_netem
from rdtops.errors import LabError
from rdtops.hostlib import locks
from rdtops.lab import keys, lab_processes, sshd
from rdtops.lab.lab_files import LabFolder, place

JUMP, HOST = "jump", "gpu"
SERVERS = {JUMP: "192.0.2.2", HOST: "198.51.100.2"}  # addresses reserved for documentation
_LAPTOP_ADDRESS, _JUMP_INNER_ADDRESS = "192.0.2.1", "198.51.100.1"
_NEEDED = {"ip": "iproute2", "nsenter": "util-linux", "sysctl": "procps", "ssh": "openssh-client", "gcc": "gcc"}
_START_TIMEOUT_S = 15.0


class WanLab(LabFolder):
    """The WAN lab in one folder. Names of namespaces derive from the folder, so that a crashed lab is found again."""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:8]
        self._laptop, self._jump, self._gpu = (
            Namespace(f"rdtops-{digest}-{name}") for name in ("laptop", JUMP, HOST))
        self._lock: IO[str] | None = None
        self._lines: list[Link] = []
        self.profile = Profile("lan")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.down()

    # --- paths

    @property
    def laptop(self) -> list[str]:
        """Return the prefix that runs a command on the laptop."""
        return [*self._laptop.prefix, "env", f"HOME={self.home('laptop')}"]

    def home(self, name: str) -> Path:
        return self.root / "homes" / name

    @property
    def namespaces(self) -> list[Namespace]:
        return [self._laptop, self._jump, self._gpu]

    # --- up and down

    def up(self, profile: str = "lan") -> None:
        """Start it again; first remove the rest of an earlier one, crashed or not. Raise LabError: what is missing, or
        another program uses this folder's lab."""
        wanted = profiles.named(profile)
        require()
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._hold()
        self._clear()
        try:
            self._make(wanted)
        except BaseException:
            self.down()
            raise

    def down(self) -> int:
        """End everything that runs in it and remove its network; keep the files. Return the number of ended
        processes."""
        ended = self._clear()
        if self._lock:
            self._lock.close()
        self._lock = None
        return ended

    def set_profile(self, name: str) -> None:
        self.profile = profiles.named(name)
        self._lines[0].make(self.profile)

    # --- measurements

    @property
    def sent_bytes(self) -> int:
        """Return the bytes that the laptop has sent, including headers and retransmissions."""
        return self._lines[0].sent_bytes

    def ping(self, count: int = 10, interval_s: float = 0.05) -> Echo:
        """Ping the jump from the laptop."""
        words = [*self._laptop.prefix, sys.executable, str(Path(__file__).with_name("ping.py")), SERVERS[JUMP],
                 "--count", str(count), "--interval", str(interval_s)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"the jump does not answer: {done.stderr.strip()}")
        return Echo(**json.loads(done.stdout))

    def forget(self) -> None:
        """Empty the homes, with the caches of digests and host keys."""
        for home in (self.root / "homes").iterdir():
            for entry in home.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    # --- faults, for tests

    def receivers(self) -> set[int]:
        """Return the processes of sessions on the gpu."""
        return {pid for pid in self._gpu.processes() if "sshd" not in lab_processes.command_line(pid)}

    def jump_connections(self) -> set[int]:
        """Return the processes of the jump's sshd that serve a client."""
        listener = lab_processes.LabProcess.read(self.root / JUMP / "process")
        serving = {pid for pid in self._jump.processes() if lab_processes.command_line(pid).startswith("sshd")}
        return serving - ({listener.pid} if listener else set())

    # --- set-up

    def _hold(self) -> None:
        """Hold the lock: one program at a time uses this lab; a crash releases it."""
        if self._lock:
            return
        lock = (self.root / "lock").open("w")
        if not locks.flocked(lock.fileno()):
            lock.close()
            raise LabError(f"the WAN lab in {self.root} is in use by another program",
                           remedy=f"fuser -v {self.root / 'lock'}   # which one; wait for its end")
        self._lock = lock

    def _clear(self) -> int:
        def inside() -> set[int]:
            return set().union(*(namespace.processes() for namespace in self.namespaces))

        ended = lab_processes.end_all(inside)
        for namespace in self.namespaces:
            namespace.delete()
        for file in self.root.glob("line-*.process"):  # in a copied folder they name the processes of another lab
            file.unlink()
        self._lines = []
        return ended

    def _make(self, profile: Profile) -> None:
        for namespace in self.namespaces:
            namespace.add()
        self._prepare_files()
        self._make_lines(profile)
        sshd.prepare_system()
        for name, namespace in ((JUMP, self._jump), (HOST, self._gpu)):
            self._start_server(name, namespace)
        self._wait()

    def _make_lines(self, profile: Profile) -> None:
        shaper: Literal["netem", "wanem"] = "netem" if kernel_has_netem(self._laptop) else "wanem"
        ends = [(End(self._laptop, "a0", _LAPTOP_ADDRESS), End(self._jump, "a1", SERVERS[JUMP])),
                (End(self._jump, "b0", _JUMP_INNER_ADDRESS), End(self._gpu, "b1", SERVERS[HOST]))]
        self._lines = [Link(self.root, near, far, shaper) for near, far in ends]
        self.profile = profile
        self._lines[0].make(profile)
        self._lines[1].make(Profile("lan"))

    def _prepare_files(self) -> None:
        if not self.identity_file.exists():
            keys.make(self.identity_file)
        for name in ("laptop", *SERVERS):
            self.home(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in SERVERS:
            (self.root / name).mkdir(exist_ok=True)
            if not (self.root / name / "host_key").exists():
                keys.make(self.root / name / "host_key")
            place(self.root / name / "sshd_config", self._server_config(name))
        place(self.known_hosts, "".join(
            f"{address} {keys.public_path(self.root / name / 'host_key').read_text()}"
            for name, address in SERVERS.items()))
        place(self.ssh_config, self._client_config())

    def _start_server(self, name: str, namespace: Namespace) -> None:
        folder = self.root / name
        words = [str(sshd.sshd()), "-D", "-e", "-f", str(folder / "sshd_config")]
        started = lab_processes.LabProcess.of(namespace.start(words, folder / "server.log"))
        if started:
            started.write(folder / "process")

    def _wait(self) -> None:
        """Wait until a session on the gpu answers. Raise LabError with the servers' logs."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        words = [*self.laptop, "ssh", "-F", str(self.ssh_config), HOST, "echo", "ready"]
        while True:
            done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            if done.stdout == "ready\n":
                return
            if time.monotonic() > deadline_s:
                logs = " | ".join((self.root / name / "server.log").read_text()[-300:] for name in SERVERS)
                raise LabError(f"the WAN lab does not answer: {done.stderr.strip()}; its logs: {logs}")
            time.sleep(0.05)

    def _server_config(self, name: str) -> str:
        """Return sshd's configuration, with OpenSSH's defaults where they matter: MaxStartups 10:30:100 and MaxSessions
        10, as on bastions. An empty home: a slow .bashrc would be measured as SSH."""
        return (f"Port 22\nListenAddress {SERVERS[name]}\n"
                f'HostKey "{self.root / name / "host_key"}"\nPidFile none\n'
                f'AuthorizedKeysFile "{keys.public_path(self.identity_file)}"\n'
                f'SetEnv "HOME={self.home(name)}"\n'
                "StrictModes no\nUsePAM no\nUseDNS no\nPasswordAuthentication no\nPrintMotd no\n"
                "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n")

    def _client_config(self) -> str:
        return (f"Host {JUMP}\n  HostName {SERVERS[JUMP]}\n"
                f"Host {HOST}\n  HostName {SERVERS[HOST]}\n  ProxyJump {JUMP}\n"
                f"Host {' '.join(SERVERS)}\n"
                f"  User {pwd.getpwuid(os.geteuid()).pw_name}\n"
                f'  IdentityFile "{self.identity_file}"\n'
                "  IdentitiesOnly yes\n  IdentityAgent none\n"
                f'  UserKnownHostsFile "{self.known_hosts}"\n'
                "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n")


def require() -> None:
    """Raise LabError with everything that is missing for this lab."""
    missing = [f"{program} (package {package})" for program, package in _NEEDED.items() if not _found(program)]
    if sshd.sshd() is None:
        missing.append("sshd (package openssh-server)")
    if os.geteuid():
        missing.insert(0, "root")
    if missing:
        raise LabError(f"the WAN lab needs {', '.join(missing)}",
                       remedy="sudo apt-get install -y openssh-server iproute2 gcc; then as root")
    if problem := sshd.obstacle():
        raise LabError(f"the WAN lab cannot log in: {problem}")


def _found(program: str) -> bool:
    return bool(shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin"))
