"""Network namespace, in which programs run as on another machine. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtops.errors import LabError

_FOLDER = Path("/run/netns")
_COMMAND_TIMEOUT_S = 20
# Defaults of a laptop and a server; saved metrics of earlier connections would make one run depend on the last.
_SETTINGS = {"ip_forward": "0", "tcp_no_metrics_save": "1", "tcp_rmem": "4096 131072 6291456",
             "tcp_wmem": "4096 16384 4194304"}


@dataclass(frozen=True)
class Namespace:
    name: str

    @property
    def path(self) -> Path:
        return _FOLDER / self.name

    @property
    def prefix(self) -> list[str]:
        """Return the prefix that runs a command in this namespace."""
        return [_program("nsenter"), f"--net={self.path}", "--"]

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def add(self) -> None:
        run(["ip", "netns", "add", self.name])
        self.run("ip", "link", "set", "lo", "up")
        for name, value in _SETTINGS.items():
            self.run("sysctl", "-qw", f"net.ipv4.{name}={value}")

    def delete(self) -> None:
        """Remove the namespace with its devices. Its processes must have ended."""
        if self.exists:
            run(["ip", "netns", "delete", self.name])

    def run(self, *words: str) -> str:
        return run([*self.prefix, *words])

    def processes(self) -> set[int]:
        return {int(pid) for pid in run(["ip", "netns", "pids", self.name]).split()} if self.exists else set()

    def start(self, words: Sequence[str], log: Path) -> int:
        """Start a program in this namespace, detached. Return its pid."""
        argv = [*self.prefix, *words]
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            return os.posix_spawn(argv[0], argv, os.environ, setsid=True, file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)])
        finally:
            os.close(output)
            os.close(null)


def run(words: Sequence[str]) -> str:
    """Run a command. Return its output. Raise LabError with the end of its output when it fails."""
    done = subprocess.run([_program(words[0]), *words[1:]], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=_COMMAND_TIMEOUT_S, check=False)
    if done.returncode:
        raise LabError(f"`{' '.join(words)}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _program(name: str) -> str:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin") or name
