"""Hosts: the hops to them and their settings. inventory reads them from hosts.toml, ssh_config from an ssh_config."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rdtops.contract.recovery import Recovery

NO_FILES = "none"  # as the only identity_file: no file is tried
FABRIC, OPENSSH = "fabric", "openssh"  # transports


@dataclass(frozen=True, kw_only=True)
class SshOptions:
    """What an ssh_config says of a hop beside its address, port and user: options of ssh_config(5), paths expanded."""

    identity_files: tuple[str, ...] = ()  # after Hop.identity_file
    identities_only: bool = False
    identity_agent: str = ""  # a socket, or "none"; empty: SSH_AUTH_SOCK
    known_hosts: tuple[str, ...] = ()  # more files to read, after Hop.known_hosts
    host_key_alias: str = ""
    only_openssh: str = ""  # the option that Fabric cannot honour: ProxyCommand
    maybe_openssh: str = ""  # the option that may let OpenSSH in where Fabric is refused: GSSAPIAuthentication


@dataclass(frozen=True)
class SshSource:
    """Where an ssh_config says how to log in to a host. `overrides`: lines of hosts.toml that go before it."""

    file: str
    alias: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One machine to log in to. `user` defaults to the user name on the laptop."""

    name: str = ""
    address: str
    port: int = 22
    user: str = field(default_factory=getpass.getuser)
    identity_file: str | None = None
    known_hosts: str = "~/.ssh/known_hosts"
    connect_timeout_s: int = 20
    relay: bool = False  # of a jump that forbids forwarding: a program on it carries the bytes to the next hop
    ssh: SshOptions = SshOptions()

    @property
    def identity_files(self) -> tuple[str, ...]:
        """The private keys to log in with, first tried first; none: ssh's own."""
        return (*((self.identity_file,) if self.identity_file else ()), *self.ssh.identity_files)

    @property
    def known_hosts_files(self) -> tuple[str, ...]:
        """The known_hosts files to read. `inv trust` writes the first."""
        return (self.known_hosts, *self.ssh.known_hosts)

    @property
    def where(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"

    @property
    def known_hosts_entry(self) -> str:
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The trainer's Python on the host: a conda environment (name or prefix), a venv or a container, one of them; and
    the modules that are loaded first. The other fields say how `inv deploy --env` makes the venv."""

    conda: str | None = None
    venv: str | None = None
    container: str | None = None  # an image of apptainer: /shared/images/rdt.sif
    binds: tuple[str, ...] = ()  # folders of the host that it sees beside the home and the workspace
    modules: tuple[str, ...] = ()  # of Lmod or Environment Modules: cuda/12.4
    requirements: tuple[str, ...] = ()  # instead of the trainer's of the same name, or beside them: torch==2.13.0+cu126
    extras: tuple[str, ...] = ()  # of pyproject.toml, beside the trainer's: eval, trackers
    index_url: str | None = None  # pip's index; None: that of pip.conf
    extra_index_urls: tuple[str, ...] = ()
    offline: bool = False  # the host cannot reach an index: the laptop downloads the wheels and sends them


@dataclass(frozen=True, kw_only=True)
class Host(Hop):
    """A GPU host: its route and its settings."""

    jumps: tuple[Hop, ...] = ()
    transport: str = "auto"  # auto, fabric or openssh
    ssh_source: SshSource | None = None  # None: hosts.toml says how to log in
    problem: str = ""  # why its ssh_config gives no route
    workspace: str = "~/rdtops"
    python: str = "python3"
    environment: Environment = Environment()
    launcher: str = "auto"  # auto, tmux or setsid, or one of a plugin: slurm
    recovery: Recovery = field(default_factory=Recovery)
    gpus: int | None = None
    preset: str = "libero_single_task"  # default of --preset for deploy, check and train
    settings: Mapping[str, Any] = field(default_factory=dict)  # `set` of hosts.toml: over the preset, below --set
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()  # names of variables whose values only this laptop knows: rdtops.delivery.secrets
    keep_releases: int = 5
    assets: Mapping[str, str] = field(default_factory=dict)  # asset name -> existing folder on the host
    plugins: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    default: bool = False
    example: bool = False  # asked only when it is named
    files: tuple[str, ...] = ()  # that define it; the first one counts

    @property
    def route(self) -> tuple[Hop, ...]:
        """Every hop, outermost first, the host itself last."""
        return (*self.jumps, self)

    @property
    def route_words(self) -> str:
        return " -> ".join(["here", *(f"{hop.name} (relay)" if hop.relay else hop.name for hop in self.route)])

    @property
    def only_openssh(self) -> str:
        """Why only OpenSSH can log in; empty: Fabric can."""
        return next((f"{hop.ssh.only_openssh} of {hop.name}" for hop in self.route if hop.ssh.only_openssh), "")

    @property
    def why_openssh(self) -> str:
        """What asks for OpenSSH as the transport; empty: Fabric is."""
        return self.only_openssh or (f"transport = {OPENSSH}" if self.transport == OPENSSH else "")
