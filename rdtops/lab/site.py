"""Lab: a jump host and two GPU hosts on this machine's loopback, over real SSH, with or without root.

    lab = Lab(".lab")
    lab.up()
    lab.write_inventory(".lab/hosts.toml", {"rdt-tiny": "assets/rdt-tiny"})
    lab.down()

Its folder holds everything it uses: keys, known_hosts, ssh_config, and per GPU host a home folder, the programs of its
sessions and the data of its fake nvidia-smi.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from rdtops.errors import LabError
from rdtops.hostlib import locks, processes
from rdtops.lab import doors, handshake, keys, lab_processes, sshd
from rdtops.lab.fake_gpus import Gpus
from rdtops.lab.lab_files import LabFolder, place
from rdtops.lab.ports import Ports
from rdtops.lab.server import ADDRESS, BACKENDS, ID_VARIABLE, PortTaken, Server

JUMP = "lab-jump"
HOSTS = ("lab", "lab2")
NAMES = (JUMP, *HOSTS)
START_TIMEOUT_S = 15.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ASKS = "BatchMode no"
_CLIENT_LINES = {  # with which plain ssh passes a door of the jump host
    "password": (_ASKS, "PreferredAuthentications password"),
    "code": (_ASKS, "PreferredAuthentications keyboard-interactive"),
    "key-and-code": (_ASKS, "PreferredAuthentications publickey,keyboard-interactive"),
    "oldkeys": ("HostKeyAlgorithms +ssh-rsa", "KexAlgorithms +diffie-hellman-group14-sha1"),
}
_SOCKET_PATH_MAX = 107  # of a unix socket, sun_path
_TMUX_SOCKET = len("/tmux-4294967295/") + 24  # tmux adds its folder and a name


@dataclass(frozen=True)
class ServerStatus:
    name: str
    address: str
    port: int
    pid: int | None
    backend: str
    up: bool
    door: str = ""  # of the jump host


@dataclass(frozen=True)
class Ready:
    """The result of `up`."""

    backend: str
    started: tuple[str, ...]  # the servers that had to be started; none when all were running
    door: str = doors.OPEN
    moved_to: Ports | None = None  # the ports it has now, where another program has those it had

    @property
    def words(self) -> str:
        how = self.backend if self.door == doors.OPEN else f"{self.backend}, door {self.door}"
        if not self.started:
            return f"the lab is already up ({how})"
        moved = f"; other programs have its ports, so it has {self.moved_to.words}" if self.moved_to else ""
        return f"started {', '.join(self.started)} ({how}){moved}"


class Lab(LabFolder):
    """The lab in one folder. Ports default to those it had before, else to those of Ports; where another program has
    one of them, to free ones."""

    def __init__(self, root: str | Path, ports: Ports | None = None) -> None:
        super().__init__(root)
        self._ports = ports

    # --- paths

    @property
    def ports(self) -> Ports:
        return self._ports or self._state().ports

    @property
    def door(self) -> str:
        return self._state().door

    @property
    def words(self) -> Path | None:
        """The file of what the jump host wants to be told: its password, or codes that are good once each."""
        return self._server(JUMP).words

    def folder(self, name: str) -> Path:
        return self.root / _known(name)

    def home(self, host: str) -> Path:
        """Return the home folder of the sessions on a GPU host."""
        return self.folder(_gpu_host(host)) / "home"

    # --- up and down

    def up(self, backend: str = "auto", door: str = "") -> Ready:
        """Start the lab if it is not up; repair one that is partly down. `door`: how its jump host lets one in, else as
        it does; a lab that was down begins with an open one. Raise LabError."""
        _require_linux()
        _make_own(self.root)
        with self._locked():
            before = self._state()
            state = self._wanted(_choose(backend, running=before.backend), door)
            if before != state:
                self._stop_servers()
            self._save(state)
            started = self._bring_up()
            problem = self._greet(patience_s=START_TIMEOUT_S if started else 0.0)
            if problem:  # one is frozen, has changed its key, or came too late for its port: restart all
                self._stop_servers()
                started = self._bring_up()
                problem = self._greet(patience_s=START_TIMEOUT_S)
            if problem:
                self._stop_servers()
                raise LabError(f"the lab does not answer: {problem}", remedy=f"less {self.root}/*/server.log")
            moved_to = self.ports if self.ports != state.ports else None
            return Ready(state.backend, tuple(started), state.door, moved_to)

    def down(self) -> int:
        """End its servers and everything started on its hosts; keep the files. Return the number of ended processes."""
        if not self._state_file.exists():  # never up, or its folder was removed
            return self._stop_servers()
        _make_own(self.root)
        with self._locked():
            state = self._state()
            ended = self._stop_servers()
            ended += lab_processes.end_all(lambda: lab_processes.with_environment(ID_VARIABLE, state.id))
            if _short_folder(self.root) != self.root:
                shutil.rmtree(_short_folder(self.root), ignore_errors=True)
            self._save(_State(id=state.id, ports=state.ports))
            return ended

    def _bring_up(self) -> list[str]:
        """Start what is missing, on other ports where another program has one of ours, unless the caller named them.
        Return the names of the servers that were started."""
        try:
            return self._start_missing()
        except PortTaken:
            if self._ports:
                raise
            self._stop_servers()
            self._save(replace(self._state(), ports=Ports.free()))
            return self._start_missing()

    def status(self) -> list[ServerStatus]:
        state = self._state()
        rows = []
        for server in self._servers():
            process = server.process
            rows.append(ServerStatus(server.name, ADDRESS, server.port, process.pid if process else None,
                                     self._backend(server) if process else state.backend, process is not None,
                                     server.door if server.name == JUMP else ""))
        return rows

    # --- files for users

    def write_inventory(self, path: str | Path, assets: Mapping[str, str]) -> None:
        """Write a hosts.toml for this lab; `assets` are local folders by name."""
        text = "# Written by the rdtops lab.\n[assets]\n"
        text += "".join(f"{json.dumps(name)} = {_toml(folder)}\n" for name, folder in assets.items())
        place(Path(path), text + self._tables())

    def write_routes(self) -> None:
        """Write its hosts into `hosts.toml` in its folder, which that of the checkout includes."""
        place(self._routes, "# Written by the rdtops lab: its hosts, while it is up.\n" + self._tables())

    def forget_routes(self) -> None:
        self._routes.unlink(missing_ok=True)

    @property
    def _routes(self) -> Path:
        return self.root / "hosts.toml"

    def _tables(self) -> str:
        """Return the tables of hosts.toml for its hosts and their jump."""
        keys = f"identity_file = {_toml(self.identity_file)}\nknown_hosts = {_toml(self.known_hosts)}\n"
        text = f"\n[jumps.{JUMP}]\n{self._login(JUMP)}{keys}{doors.KEYS_OF_THE_JUMP.get(self.door, '')}"
        for host in HOSTS:
            jumps = "" if self.door == "menu" else f'"{JUMP}"'
            text += (f'\n[hosts.{host}]\n{self._login(host)}{keys}jumps = [{jumps}]\nworkspace = "~/rdtops"\n'
                     f'gpus = {Gpus.read(self.folder(host) / "gpus.json").count}\npreset = "tiny"\n')
        return text

    def set_gpus(self, host: str, gpus: Gpus) -> None:
        """Set what nvidia-smi shows on this host from now on."""
        gpus.write(self.folder(_gpu_host(host)) / "gpus.json")

    # --- faults, for tests

    def freeze(self, name: str) -> None:
        """Freeze a server and its connections: they stay open, but send nothing."""
        processes.send(self._server(name).processes(), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        processes.send(self._server(name).processes(), signal.SIGCONT)

    def stop_server(self, name: str) -> None:
        """End the server and its connections; detached processes on the host continue."""
        self._server(name).stop()

    def kill_server(self, name: str) -> None:
        """Send SIGKILL to the server and its connections at once."""
        server = self._server(name)
        processes.send(server.processes(), signal.SIGKILL)
        server.stop()  # processes forked meanwhile

    def start_server(self, name: str) -> None:
        """Start a server. Return when it answers, with any host key."""
        server = self._server(name)
        if server.process is None:
            server.start(self._backend(server))
        self._wait(name, START_TIMEOUT_S, any_host_key=True)

    def change_host_key(self, name: str) -> None:
        """Give the server a new host key; known_hosts keeps the old one until the next `up`."""
        server = self._server(name)
        server.stop()
        server.make_host_key()
        self.start_server(name)

    def sessions(self, host: str) -> set[int]:
        """Return the processes of a GPU host's sessions, and those they started."""
        mine = lab_processes.with_environment(ID_VARIABLE, self._state().id)
        return mine & lab_processes.with_environment("RDTOPS_LAB", _gpu_host(host))

    def connections(self, name: str) -> set[int]:
        """Return the processes of a server that serve a client; none where one process serves all (asyncssh)."""
        server = self._server(name)
        return server.processes() - ({server.process.pid} if server.process else set())

    # --- files

    def _prepare(self) -> None:
        """Write every file that servers and clients need. Repeating it changes only known_hosts, after a new key."""
        if not self.identity_file.exists():
            keys.make(self.identity_file)
        sshd.prepare_system()
        for server in self._servers():
            server.folder.mkdir(mode=0o700, exist_ok=True)
            if not server.host_key.exists():
                server.make_host_key()
            if server.gives_sessions:
                self._prepare_sessions(server)
            if server.name in HOSTS:
                self._prepare_gpus(server)
        doors.prepare(self.door, self.folder(JUMP))
        host_keys = {server.port: server.host_key for server in self._servers()}
        place(self.known_hosts, keys.known_hosts(ADDRESS, host_keys))
        place(self.ssh_config, self._client_config())
        for server in self._servers():
            if self._backend(server) == "openssh":
                place(server.sshd_config, _sshd_config(server))

    def _prepare_sessions(self, server: Server) -> None:
        for name in ("home", "bin"):
            (server.folder / name).mkdir(exist_ok=True)
        _make_own(_short_folder(self.root))
        _make_own(_short_folder(self.root) / server.name)
        place(server.home / ".profile",
              "# Written by the rdtops lab: /etc/profile, read by login shells, resets PATH.\n"
              f"PATH={shlex.quote(server.environment['PATH'])}\n")
        place(server.session_script, sshd.SESSION, 0o755)

    def _prepare_gpus(self, server: Server) -> None:
        if not (server.folder / "gpus.json").exists():
            self.set_gpus(server.name, Gpus())
        fake = (Path(__file__).parent / "bin" / "nvidia-smi").read_text(encoding="utf-8")
        place(server.folder / "bin" / "nvidia-smi", fake, 0o755)

    def _client_config(self) -> str:
        """Return the configuration for plain ssh: `ssh -F .lab/ssh_config lab`."""
        return "".join(map(self._block, NAMES)) + (
            f"Host {' '.join(NAMES)}\n"
            f"  User {_user()}\n"
            f'  IdentityFile "{self.identity_file}"\n'
            "  IdentitiesOnly yes\n"
            "  IdentityAgent none\n"
            f'  UserKnownHostsFile "{self.known_hosts}"\n'
            "  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
            "  BatchMode yes\n")

    def _block(self, name: str) -> str:
        """Return what differs from hop to hop; ssh takes the first value of a keyword."""
        lines = [f"Host {name}", f"HostName {ADDRESS}", f"Port {self._entrance(name)}"]
        if name == JUMP:
            lines += _CLIENT_LINES.get(self.door, ())
        elif self.door == "menu":
            lines.append(f"User {self._login_name(name)}")
        else:
            lines.append(f"ProxyJump {JUMP}")
        return "\n  ".join(lines) + "\n"

    def _login(self, name: str) -> str:
        return f'address = "{ADDRESS}"\nport = {self._entrance(name)}\nuser = {_toml(self._login_name(name))}\n'

    def _entrance(self, name: str) -> int:
        """Return the port at which one logs in for this server: behind a menu, the bastion's."""
        return self.ports.of(JUMP if self.door == "menu" else name)

    def _login_name(self, name: str) -> str:
        return f"{_user()}@{_user()}@{name}" if self.door == "menu" and name in HOSTS else _user()

    # --- servers

    def _servers(self) -> list[Server]:
        return [self._server(name) for name in NAMES]

    def _server(self, name: str) -> Server:
        state = self._state()
        is_jump = _known(name) == JUMP
        targets = {host: self.ports.of(host) for host in HOSTS}
        return Server(
            name=name, port=self.ports.of(name), folder=self.root / name,
            authorized_keys=keys.public_path(self.identity_file),
            environment=self._environment(name, state),
            targets=targets if is_jump else {}, jump=None if is_jump else self.root / JUMP,
            door=state.door if is_jump else doors.OPEN)

    def _backend(self, server: Server) -> str:
        """Return what serves this server: at some doors the jump host is not played by the backend of the lab."""
        return doors.played_by(server.door, self._state().backend)

    def _environment(self, name: str, state: _State) -> dict[str, str]:
        """Return the complete environment of a session of this host."""
        folder = self.root / name
        account = pwd.getpwuid(os.geteuid())
        return {
            "HOME": str(folder / "home"), "USER": account.pw_name, "LOGNAME": account.pw_name,
            "SHELL": account.pw_shell or "/bin/sh",
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{SYSTEM_PATH}",
            "TMUX_TMPDIR": str(_short_folder(self.root) / name),
            "LANG": "C.UTF-8", "RDTOPS_LAB": name, ID_VARIABLE: state.id,
        }

    def _start_missing(self) -> list[str]:
        """Write the files and start the servers that do not run. Raise PortTaken."""
        self._prepare()
        missing = [server for server in self._servers() if server.process is None]
        for server in missing:
            server.stop()  # connections of a killed server still hold the port
            server.start(self._backend(server))
        return [server.name for server in missing]

    def _stop_servers(self) -> int:
        if service := self._server(JUMP).pam_service:
            sshd.remove_pam(service)
        return sum(server.stop() for server in self._servers())

    # --- readiness

    def _greet(self, patience_s: float) -> str:
        """Shake hands with each GPU host through the jump host, checking both host keys; where its door takes a person,
        see that each server is there. Return the problem, or ''."""
        try:
            for name in HOSTS if self.door == doors.OPEN else NAMES:
                self._wait(name, patience_s)
        except LabError as error:
            return error.message
        return ""

    def _wait(self, name: str, patience_s: float, any_host_key: bool = False) -> None:
        """Wait until a handshake succeeds. Raise LabError at the time limit, or at once when waiting cannot help."""
        deadline_s = time.monotonic() + patience_s
        route = [self._hop(JUMP)] if name == JUMP else [self._hop(JUMP), self._hop(name)]
        while True:
            try:
                if self.door == doors.OPEN:
                    return handshake.greet(route, any_host_key=any_host_key)
                return handshake.knock(route[-1], is_behind=name != JUMP)
            except handshake.NotYet as error:
                dead = [server for server in self._servers() if server.process is None]
                if dead or time.monotonic() > deadline_s:
                    said = "; ".join(f"{s.name}'s log: {s.log_tail()}" for s in dead or [self._server(name)])
                    raise LabError(f"{name}: {error}; {said}") from error
                time.sleep(0.05)

    def _hop(self, name: str) -> handshake.HandshakeHop:
        return handshake.HandshakeHop(name, ADDRESS, self.ports.of(name), _user(), self.identity_file, self.known_hosts)

    # --- state

    @property
    def _state_file(self) -> Path:
        return self.root / "lab.json"

    def _state(self) -> _State:
        """Return the recorded state, else that of a lab that was never up."""
        recorded = _State()
        if self._state_file.exists():
            values = json.loads(self._state_file.read_text(encoding="utf-8"))
            recorded = _State(values["id"], values["backend"], Ports(**values["ports"]), values.get("door", doors.OPEN))
        return recorded

    def _wanted(self, backend: str, door: str) -> _State:
        """Return the recorded state, completed by what this lab was asked for. Raise LabError for a door that nothing
        here can play."""
        recorded = self._state()
        door = door or recorded.door
        doors.played_by(door, backend)
        return _State(id=recorded.id or secrets.token_hex(8), backend=backend,
                      ports=self._ports or recorded.ports, door=door)

    def _save(self, state: _State) -> None:
        place(self._state_file, json.dumps(asdict(state), indent=1) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock: one `up` or `down` at a time."""
        with (self.root / "lock").open("wb") as file:
            locks.flock(file.fileno(), locks.EXCLUSIVE)
            yield


@dataclass(frozen=True)
class _State:
    id: str = ""
    backend: str = ""  # "" when it is down
    ports: Ports = field(default_factory=Ports)
    door: str = doors.OPEN


def _choose(backend: str, running: str) -> str:
    """Return the backend to use; `auto` keeps the running one, else prefers OpenSSH where it supports everything."""
    if backend not in ("auto", *BACKENDS):
        raise LabError(f"the lab has no backend {backend!r}", remedy=f"one of auto, {', '.join(BACKENDS)}")
    obstacles = {"openssh": sshd.obstacle(),
                 "asyncssh": None if find_spec("asyncssh") else "the Python package asyncssh is not installed"}
    if backend == "auto":
        preferred = running or ("openssh" if sshd.gives_terminals() else "asyncssh")
        candidates = tuple(dict.fromkeys((preferred, *BACKENDS)))
    else:
        candidates = (backend,)
    for candidate in candidates:
        if obstacles[candidate] is None:
            return candidate
    why = "; ".join(f"{candidate}: {obstacles[candidate]}" for candidate in candidates)
    raise LabError(f"no SSH server for the lab: {why}",
                   remedy="sudo apt-get install -y openssh-server, or pip install asyncssh")


def _sshd_config(server: Server) -> str:
    if server.words:
        sshd.prepare_pam(server.pam_service, server.words)
    first = sshd.door_config(server.door, server.pam_service)
    if server.gives_sessions:
        return first + sshd.host_config(
            port=server.port, host_key=server.host_key, authorized_keys=server.authorized_keys,
            environment=server.environment, session=server.session_script)
    return first + sshd.jump_config(port=server.port, host_key=server.host_key,
                                    authorized_keys=server.authorized_keys, ports=server.targets.values())


def _short_folder(root: Path) -> Path:
    """Return the folder of tmux sockets: in the lab, or below /tmp when their path would be too long."""
    longest = max(len(str(root / host)) for host in HOSTS) + _TMUX_SOCKET
    if longest <= _SOCKET_PATH_MAX:
        return root
    digest = hashlib.sha256(str(root).encode()).hexdigest()
    return Path("/tmp") / f"rdtops-{os.geteuid()}-{digest[:8]}"  # noqa: S108  # _make_own checks whose it is


def _make_own(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise LabError(f"{folder} was made by another user (uid {owner}; you are {os.geteuid()})",
                       remedy=f"inv lab.down as that user, then rm -r {folder}")


def _known(name: str) -> str:
    if name not in NAMES:
        raise LabError(f"the lab has no server {name!r}: {', '.join(NAMES)}")
    return name


def _gpu_host(name: str) -> str:
    if name not in HOSTS:
        raise LabError(f"{name!r} is not a GPU host of the lab: {', '.join(HOSTS)}")
    return name


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _toml(value: str | Path) -> str:
    return json.dumps(str(value), ensure_ascii=False)  # a JSON text is a TOML text


def _require_linux() -> None:
    if not lab_processes.PROC.joinpath("self/stat").exists():
        raise LabError("the lab needs Linux: it reads /proc", remedy="run it in a Linux container or virtual machine")
