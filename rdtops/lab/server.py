"""Server: one of the lab's three SSH servers, with its settings and its process."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rdtops.errors import LabError
from rdtops.lab import connections, doors, keys, lab_processes, sshd
from rdtops.lab.lab_processes import LabProcess

ADDRESS = "127.0.0.1"
ID_VARIABLE = "RDTOPS_LAB_ID"  # in the environment of everything that runs in the lab, so that `down` finds it
BACKENDS = ("openssh", "asyncssh")


class PortTaken(LabError):
    """Another program listens on a port of the lab."""


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    folder: Path
    authorized_keys: Path
    environment: Mapping[str, str]  # the complete environment of its sessions
    targets: Mapping[str, int] = field(default_factory=dict)  # the jump host: the hosts and ports it connects to
    jump: Path | None = None  # a GPU host: the folder of the jump host, the only one it accepts
    door: str = doors.OPEN  # of the jump host

    @property
    def host_key(self) -> Path:
        return self.folder / ("host_key_rsa" if self.door == "oldkeys" else "host_key")

    @property
    def words(self) -> Path | None:
        """The file of what its door wants to be told."""
        name = doors.told_by(self.door)
        return self.folder / name if name else None

    @property
    def gives_sessions(self) -> bool:
        return self.jump is not None or self.door == "noforward"

    @property
    def pam_service(self) -> str:
        """PAM's name for it; '' where no door asks PAM."""
        return f"rdtops-lab-{self.environment[ID_VARIABLE]}" if self.words else ""

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def sshd_config(self) -> Path:
        return self.folder / "sshd_config"

    @property
    def session_script(self) -> Path:
        return self.folder / "session"

    @property
    def home(self) -> Path:
        return Path(self.environment["HOME"])

    @property
    def process(self) -> LabProcess | None:
        """The listening process, if it runs."""
        return LabProcess.read(self.folder / "process")

    def processes(self) -> set[int]:
        """Return the listening process and those that serve its connections, whatever their parent is now."""
        listening = self.process  # also while its threads end, when its open files are not visible
        return lab_processes.writing_to(self.log) | ({listening.pid} if listening else set())

    @property
    def admitted(self) -> LabProcess | None:
        """Return a GPU host's only client: the current process of the jump host."""
        return LabProcess.read(self.jump / "process") if self.jump else None

    def start(self, backend: str) -> None:
        """Start the process and return; a handshake shows whether it works. Raise LabError when the port is taken."""
        self._require_free_port()
        (self.folder / "server.json").write_text(self._to_json(), encoding="utf-8")
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            argv = self._command(backend)
            pid = os.posix_spawn(argv[0], argv, self._own_environment(), setsid=True, file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)])
        finally:
            os.close(log)
            os.close(null)
        process = LabProcess.of(pid)
        if process is None:
            raise LabError(f"{self.name}: {argv[0]} ended at once; its log: {self.log_tail()}")
        process.write(self.folder / "process")

    def stop(self) -> int:
        """End the server and its connections; detached processes started through them continue."""
        ended = lab_processes.end_all(self.processes)
        (self.folder / "process").unlink(missing_ok=True)
        return ended

    def make_host_key(self) -> None:
        keys.make(self.host_key, rsa=self.door == "oldkeys")

    def log_tail(self, lines: int = 2) -> str:
        if not self.log.exists():
            return ""
        return " | ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    @classmethod
    def load(cls, path: str) -> Server:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**values, "folder": Path(values["folder"]), "authorized_keys": Path(values["authorized_keys"]),
                      "jump": Path(values["jump"]) if values["jump"] else None})

    def _to_json(self) -> str:
        return json.dumps({**asdict(self), "environment": dict(self.environment)}, default=str, indent=1)

    def _command(self, backend: str) -> list[str]:
        if backend == "openssh" and self.jump is None:
            return sshd.listening(self.sshd_config, self.log, self.pam_service)
        module = ("rdtops.lab.gate" if backend == "openssh" else
                  "rdtops.lab.menu_bastion" if self.door == "menu" else "rdtops.lab.asyncssh_server")
        return [sys.executable, "-m", module, str(self.folder / "server.json")]

    def _own_environment(self) -> dict[str, str]:
        """Return an environment with only the import path; a server that runs sessions removes it again."""
        kept = {name: self.environment[name] for name in ("PATH", "LANG", ID_VARIABLE)}
        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**kept, "PYTHONPATH": os.pathsep.join(path)}

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, self.port))
            except OSError as error:
                owner = connections.listener(self.port) or str(error)
                raise PortTaken(
                    f"port {self.port}, which the lab's {self.name} needs, is taken: {owner}",
                    remedy=f"end that program (ss -ltnp 'sport = :{self.port}'), then inv lab.up") from error
