"""OpenSSH master: one `ssh` process that is logged in to a host, for what Fabric cannot do: ProxyCommand, Kerberos,
hardware keys, certificates. A person answers its questions once; every command, stream and transfer is a session of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from rdtops.errors import RdtopsError, Unreachable
from rdtops.ssh.display import printable
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.login import askpass
from rdtops.ssh.login.openssh_errors import explained
from rdtops.ssh.openssh_config import destination, write_config
from rdtops.ssh.transport import Ask

LOGIN_S = 30.0  # beside the connect_timeout_s of every hop and the time of a person
PERSON_S = 120.0
LAST_WORDS_S = 2.0  # to read them
PIECE = 1 << 18
STDERR_LINES, STDERR_LINE_BYTES, STDERR_BYTES = 200, 1 << 12, 1 << 20
AUTHENTICATED = "Authenticated to "
HEARD = "debug1: Remote protocol version"  # a hop answered as an SSH server
NOISE = re.compile(r"^(debug\d:|OpenSSH_|Transferred:|Bytes per second:|Warning: Permanently|Authenticated to )")
OPENED, REFUSED = re.compile("master session id"), re.compile("refused by peer")  # a session of a master
LOST = re.compile(r"read_packet|[Cc]onnection closed|Broken pipe")  # of ssh, not of the command
ASKPASS = """\
#!/bin/sh
exec "{python}" -I "{program}" "{door}" "${{SSH_ASKPASS_PROMPT:-question}}" "$1"
"""


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
        self._folder = tempfile.TemporaryDirectory(prefix="rdtops-ssh-")
        config = write_config(self.host, Path(self._folder.name), batch=self._questions.ask is None)
        with self._questions.asked_in(Path(self._folder.name)) as environment:
            self._process = subprocess.Popen(
                ["ssh", "-F", str(config), "-M", "-N", "-T", "-o", f"ControlPath={self._socket}",
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
        assert self._folder
        return ["ssh", "-F", str(Path(self._folder.name) / "config"), "-T", "-o", f"ControlPath={self._socket}",
                "-o", "ControlMaster=no", "-o", "ProxyCommand=exit 1", destination(self.host),
                command]

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
        assert self._folder
        hop = first_silent(self.host, Path(self._folder.name) / "config", patience_s) or self.host
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



class Questions:
    """What `ssh` asks a person, by an askpass program that hands it to us. The answers go to `ssh` alone."""

    def __init__(self, host: Host, ask: Ask | None) -> None:
        self.ask = ask
        self.asked = False
        self.waited_s = 0.0  # for a person
        self._host = host

    @contextlib.contextmanager
    def asked_in(self, folder: Path) -> Iterator[dict[str, str]]:
        """Give the environment in which `ssh` asks. `folder`: of ours alone."""
        if self.ask is None:
            yield dict(os.environ)
            return
        way, program = folder / "ask", folder / "askpass"
        program.write_text(ASKPASS.format(python=sys.executable, program=askpass.__file__, door=way), encoding="utf-8")
        program.chmod(0o700)
        way.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(way))
            door.listen()
            threading.Thread(target=self._answer, args=(door, self.ask), daemon=True).start()
            yield {"DISPLAY": ":0", **os.environ, "SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}
            door.shutdown(socket.SHUT_RDWR)

    def _answer(self, door: socket.socket, ask: Ask) -> None:
        with contextlib.suppress(OSError):
            while True:
                way, _ = door.accept()
                with way, contextlib.suppress(OSError):
                    kind, _, question = _all_of(way).decode("utf-8", "replace").partition("\n")
                    way.sendall(self._reply(kind, question, ask))

    def _reply(self, kind: str, question: str, ask: Ask) -> bytes:
        if kind == "none":  # a hardware key wants to be touched
            sys.stderr.write(f"{printable(question)}\n")
            return askpass.GIVEN
        if "yes/no" in question:  # a host key: only `inv trust` accepts one
            return b"-"
        self.asked = True
        begun_s = time.monotonic()
        try:
            return askpass.GIVEN + ask(f"{self._host.name}: {question}", False).encode() + b"\n"
        except Exception:  # no terminal any more, or Ctrl-D
            return b"-"
        finally:
            self.waited_s += time.monotonic() - begun_s


def _all_of(way: socket.socket) -> bytes:
    return b"".join(iter(lambda: way.recv(4096), b""))


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


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, which may hold its stderr open."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, 9)
    process.wait()


class SshSession:
    """A session of a master, with the methods of paramiko's Channel that Stream uses."""

    def __init__(self, command: list[str], silence_s: float, is_connected: Callable[[], bool]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                         bufsize=0, start_new_session=True)
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._in = self._process.stdin
        os.set_blocking(self._in.fileno(), False)
        self._out, self._err = _Pipe(self._process.stdout.fileno()), _Pipe(self._process.stderr.fileno())
        self._is_connected = is_connected
        self._silence_s: float | None = silence_s
        self.closed = False
        self.exit_status = -1
        self.status_event = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        code = self._process.wait()
        lost = code == 255 and (not self._is_connected() or LOST.search(self._err.text()))
        self.exit_status = -1 if lost or code < 0 else code
        self.status_event.set()

    def opens(self, timeout_s: float) -> bool:
        """Wait until the master has opened the session; return False where sshd refuses one. Raise OSError."""
        ends_s = time.monotonic() + timeout_s
        while not OPENED.search(said := self._err.text()):
            if REFUSED.search(said):
                return False
            if self.status_event.wait(0.002) and not OPENED.search(self._err.text()):
                raise OSError(" ".join(line for line in self._err.text().splitlines() if not NOISE.match(line))[-300:]
                              or "ssh ended")
            if time.monotonic() > ends_s:
                raise TimeoutError
        return True

    def settimeout(self, silence_s: float | None) -> None:
        self._silence_s = silence_s

    def sendall(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            if not select.select([], [self._in], [], self._silence_s)[1]:
                raise TimeoutError
            view = view[self._in.write(view) or 0:]

    def shutdown_write(self) -> None:
        with contextlib.suppress(OSError):
            self._in.close()

    def recv(self, size: int) -> bytes:
        return self._out.read(size, self._silence_s)

    def recv_stderr(self, size: int) -> bytes:
        return self._err.read(size, self._silence_s)

    def recv_ready(self) -> bool:
        return self._out.ready()

    def recv_stderr_ready(self) -> bool:
        return self._err.ready()

    @property
    def eof_received(self) -> bool:
        return not self._out.ready() and self._out.ended

    def exit_status_ready(self) -> bool:
        return self.status_event.is_set()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            end_group(self._process)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()


class _Pipe:
    """The reading end of a pipe, with what has been read ahead."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._ahead = b""
        self._lock = threading.Lock()
        self.ended = False

    def ready(self) -> bool:
        """Return whether a read would give bytes at once."""
        with self._lock:
            self._fill(0)
            return bool(self._ahead)

    def read(self, size: int, timeout_s: float | None) -> bytes:
        """Return up to `size` bytes; b"" at the end. Raise TimeoutError."""
        with self._lock:
            if not self._ahead and not self.ended and not self._fill(timeout_s):
                raise TimeoutError
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
            return piece

    def text(self) -> str:
        """Return what has been read ahead and can be read at once."""
        with self._lock:
            while not self.ended and select.select([self._number], [], [], 0)[0] and len(self._ahead) < PIECE:
                piece = os.read(self._number, PIECE)
                self._ahead += piece
                self.ended = not piece
            return self._ahead.decode("utf-8", "replace")

    def _fill(self, timeout_s: float | None) -> bool:
        """Read a piece if there is none; return whether there is one, or the end."""
        if self._ahead or self.ended:
            return True
        if not select.select([self._number], [], [], timeout_s)[0]:
            return False
        self._ahead = os.read(self._number, PIECE)
        self.ended = not self._ahead
        return True
