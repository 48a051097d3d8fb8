"""OpenSSH master: one `ssh` process that is logged in to a host, for what Fabric cannot do: ProxyCommand, Kerberos,
hardware keys, certificates. A person answers its questions once; every command, stream and transfer is a session of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from rdtops.errors import RdtopsError, Unreachable
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.login.openssh_errors import explained
from rdtops.ssh.login.questions import PERSON_S, Questions
from rdtops.ssh.login.ssh_session import NOISE, SshSession, end_group
from rdtops.ssh.openssh_config import configured, destination
from rdtops.ssh.transport import Ask

LOGIN_S = 30.0  # beside the connect_timeout_s of every hop and the time of a person
LAST_WORDS_S = 2.0  # to read them
STDERR_LINES, STDERR_LINE_BYTES, STDERR_BYTES = 200, 1 << 12, 1 << 20
AUTHENTICATED = "Authenticated to "
HEARD = "debug1: Remote protocol version"  # a hop answered as an SSH server


class OpenSshMaster:
    """An `ssh` process that is logged in to a host, and its sessions."""

    def __init__(self, host: Host, ask: Ask | None) -> None:
        self.host = host
        self._questions = Questions(host, ask)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: list[str] = []
        self._passed = 0  # hops that it is logged in to
        self._sessions: weakref.WeakSet[SshSession] = weakref.WeakSet()

    def open(self) -> None:
        """Log in. Raise a HostError that says which hop refused, or a ConfigError."""
        self._folder = configured(self.host, batch=self._questions.ask is None)
        with self._questions.asked_in(Path(self._folder.name)) as environment:
            self._process = subprocess.Popen(
                ["ssh", "-F", str(self._config), "-M", "-N", "-T", "-o", f"ControlPath={self._socket}",
                 "-o", "ControlPersist=no", destination(self.host)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
                start_new_session=True)
            self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
            self._listener.start()
            try:
                self._wait_for_login()
            except BaseException:
                self.close()
                raise

    def _wait_for_login(self) -> None:
        assert self._process
        begun_s = time.monotonic()
        limit_s = LOGIN_S + sum(hop.connect_timeout_s for hop in self.host.route)
        while not self._socket.exists():
            if self._process.poll() is not None:
                raise self._failure("ssh ended without a word")
            if time.monotonic() > begun_s + limit_s + self._questions.waited_s:
                raise self._failure(f"no login within {limit_s:g} s")
            time.sleep(0.01)

    @property
    def _config(self) -> Path:
        assert self._folder
        return Path(self._folder.name) / "config"

    @property
    def _socket(self) -> Path:
        assert self._folder
        return Path(self._folder.name) / "master"

    @property
    def asked(self) -> bool:
        """Whether a person was asked for anything."""
        return self._questions.asked

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def session(self, command: str, timeout_s: float, silence_s: float) -> SshSession | None:
        """Give a command to the host's login shell; return its pipes, None where sshd refuses a session."""
        session = SshSession(self._session_command(command), silence_s, lambda: self.alive)
        self._sessions.add(session)
        if session.opens(timeout_s):
            return session
        session.close()
        return None

    def _session_command(self, command: str) -> list[str]:
        """Return the `ssh` of a session. Without the master it must not log in by itself, hence the ProxyCommand."""
        return ["ssh", "-F", str(self._config), "-T", "-o", f"ControlPath={self._socket}", "-o", "ControlMaster=no",
                "-o", "ProxyCommand=exit 1", destination(self.host), command]

    @contextlib.contextmanager
    def terminal(self, line: str) -> Iterator[list[str]]:
        """Give the `ssh` that runs a line in a terminal on the host."""
        *words, there, _ = self._session_command("")
        yield [*words, "-o", "LogLevel=ERROR", "-t", there, line]

    def silences(self, patience_s: float) -> Iterator[tuple[Hop, str, float]]:
        """Yield the host with '' when it answers, else the first hop that does not answer and why; with the seconds
        that it took."""
        start_s = time.monotonic()
        if not self.alive:
            yield self.host, "the connection was closed", 0.0
            return
        try:
            said = subprocess.run(self._session_command("exit 0"), stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=patience_s, check=False)
            answered = said.returncode != 255 or b"refused by peer" in said.stderr  # it has no session to spare
        except subprocess.TimeoutExpired:
            answered = False
        if answered:
            yield self.host, "", time.monotonic() - start_s
            return
        hop = first_silent(self.host, self._config, patience_s) or self.host
        yield hop, f"no answer from {hop.name} within {patience_s:g} s", time.monotonic() - start_s

    def close(self) -> None:
        """End it and its sessions, and the `ssh` of the hops before, which end with it."""
        process, self._process = self._process, None
        for session in list(self._sessions):
            session.close()
        if process:
            end_group(process)
        if self._folder:
            with contextlib.suppress(OSError):
                self._folder.cleanup()

    def _failure(self, otherwise: str) -> RdtopsError:
        assert self._process
        end_group(self._process)  # the `ssh` of the jumps, too, which would keep the listener
        self._listener.join(LAST_WORDS_S)
        return failure(self.host, "\n".join(self._errors), otherwise, self._passed)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        with process.stderr, contextlib.suppress(ValueError, OSError):
            while line := process.stderr.readline(STDERR_LINE_BYTES):
                text = line.decode("utf-8", "replace").rstrip()
                self._passed += text.startswith(AUTHENTICATED)
                if text and not NOISE.match(text):
                    self._errors = [*self._errors[1 - STDERR_LINES:], text]


def failure(host: Host, errors: str, otherwise: str, passed: int) -> RdtopsError:
    """Return the error for an `ssh` that got nowhere; `passed`: the hops that it was logged in to."""
    return explained(errors, host, passed) or Unreachable(
        f"cannot reach {host.name} ({host.route_words}): {errors[-300:] or otherwise}",
        remedy=f"inv hosts --ping --host {host.name}")


def run_asking(host: Host, ask: Ask | None, folder: Path, command: list[str]) -> str:
    """Run an `ssh` that may ask a person; return its stderr without its progress."""
    with Questions(host, ask).asked_in(folder) as environment:
        limit_s = LOGIN_S + sum(hop.connect_timeout_s for hop in host.route) + (PERSON_S if ask else 0)
        lines = stderr_of(command, limit_s, environment).splitlines()
    return "\n".join(line for line in lines if not NOISE.match(line))


def first_silent(host: Host, config: Path, patience_s: float) -> Hop | None:
    """Return the first hop of a route that does not answer as an SSH server, by one more login; None where that cannot
    be told."""
    errors = stderr_of(["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", "ControlPath=none", destination(host),
                        "exit"], patience_s)
    heard = errors.count(HEARD)
    refused = "Permission denied" in errors
    return None if refused or heard >= len(host.route) else host.route[heard]


def stderr_of(command: list[str], timeout_s: float, environment: dict[str, str] | None = None) -> str:
    """Return what a command wrote to stderr until it ended or `timeout_s` was over, its end."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                                   env=environment, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
        end_group(process)
        errors.seek(max(errors.seek(0, os.SEEK_END) - STDERR_BYTES, 0))
        return errors.read().decode("utf-8", "replace")
