"""Hosts: the hops to them, and their settings in an ssh_config. Quick to import, for the transfer program. inventory
reads hosts.toml."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdtops.contract.recovery import Recovery
from rdtops.errors import ConfigError


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
    index_url: str | None = None  # pip's index; None: that of pip.conf
    extra_index_urls: tuple[str, ...] = ()
    offline: bool = False  # the host cannot reach an index: the laptop downloads the wheels and sends them


@dataclass(frozen=True, kw_only=True)
class Host(Hop):
    """A GPU host: its route and its settings."""

    jumps: tuple[Hop, ...] = ()
    workspace: str = "~/rdtops"
    python: str = "python3"
    environment: Environment = Environment()
    launcher: str = "auto"  # auto, tmux or setsid, or one of a plugin: slurm
    recovery: Recovery = field(default_factory=Recovery)
    gpus: int | None = None
    preset: str = "libero_single_task"  # default of --preset for deploy, check and train
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()  # names of variables whose values only this laptop knows: rdtops.delivery.secrets
    keep_releases: int = 5
    assets: Mapping[str, str] = field(default_factory=dict)  # asset name -> existing folder on the host
    plugins: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    default: bool = False

    @property
    def route(self) -> tuple[Hop, ...]:
        """Every hop, outermost first, the host itself last."""
        return (*self.jumps, self)

    @property
    def route_words(self) -> str:
        return " -> ".join(["here", *(hop.name for hop in self.route)])


_NOT_CHOSEN = ("~/.ssh/id_rsa", "~/.ssh/id_ed25519")  # among ssh's default keys


def aliases(ssh_config: Path) -> list[str]:
    if not ssh_config.is_file():
        return []
    text = ssh_config.read_text(encoding="utf-8", errors="replace")
    words = re.findall(r"^\s*Host\s+(.+)$", text, re.MULTILINE | re.IGNORECASE)
    return [name for line in words for name in line.split() if not re.search(r"[*?!]", name)]


def of_ssh_config(alias: str, ssh_config: Path) -> Host:
    """Return a host that is only in an ssh_config."""
    return from_ssh_config(alias, {}, ssh_config)


def from_ssh_config(alias: str, values: dict[str, Any], ssh_config: Path) -> Host:
    """Return a host whose address and route come from ssh_config (HostName, Port, User, IdentityFile, ProxyJump)."""
    if not ssh_config.is_file():
        raise ConfigError(f"ssh_alias {alias!r}: there is no {ssh_config}")
    route = _ssh_route(alias, ssh_config, ())
    own = {key: value for key, value in route[-1].items() if key not in values}
    return Host(**{"name": alias, "jumps": tuple(Hop(**hop) for hop in route[:-1]), **own,
                   **{key: value for key, value in values.items() if key != "jumps" or value}})


def _ssh_route(alias: str, ssh_config: Path, seen: tuple[str, ...]) -> list[dict[str, Any]]:
    if alias in seen:
        raise ConfigError(f"{ssh_config}: ProxyJump of {alias!r} is a loop: {' -> '.join([*seen, alias])}")
    hop, jumps = _ssh_hop(alias, ssh_config)
    if not jumps:
        return [hop]
    # the first jump uses its own block; each later jump of the list goes through the one before it, as in ssh
    first = _ssh_route(jumps[0], ssh_config, (*seen, alias))
    return [*first, *(_ssh_hop(jump, ssh_config)[0] for jump in jumps[1:]), hop]


def _ssh_hop(alias: str, ssh_config: Path) -> tuple[dict[str, Any], list[str]]:
    """Return one hop, and the jumps of its ProxyJump."""
    user, name, port = _destination(alias)
    found = _looked_up(name, ssh_config)
    if "proxycommand" in found and found["proxycommand"].lower() != "none":
        raise ConfigError(f"{ssh_config}: Host {name} uses ProxyCommand, which is not supported: rdtops checks the key "
                          "of every hop", remedy="use ProxyJump for the hop, or jumps in hosts.toml")
    hop: dict[str, Any] = {"name": name, "address": found.get("hostname", name).strip("[]"),
                           "port": int(port or found.get("port", 22))}
    if user or "user" in found:
        hop["user"] = user or found["user"]
    if found.get("identityfile"):
        hop["identity_file"] = str(Path(found["identityfile"][0]).expanduser())
    if "userknownhostsfile" in found:
        first = found["userknownhostsfile"].split()[0]
        hop["known_hosts"] = os.devnull if first.lower() == "none" else str(Path(first).expanduser())
    jumps = found.get("proxyjump", "none")
    return hop, [] if jumps.lower() == "none" else [jump.strip() for jump in jumps.split(",")]


def _destination(text: str) -> tuple[str, str, str]:
    """Split `[ssh://][user@]host[:port]` of ProxyJump into user, name and port; an IPv6 address may have brackets.

    >>> _destination("ssh://hop@[::1]:2222"), _destination("fe80::1"), _destination("gpu")
    (('hop', '::1', '2222'), ('', 'fe80::1', ''), ('', 'gpu', ''))
    """
    user, _, rest = text.removeprefix("ssh://").rstrip("/").rpartition("@")
    if rest.startswith("["):
        name, _, port = rest[1:].partition("]")
        return user, name, port.lstrip(":")
    name, _, port = rest.partition(":") if rest.count(":") == 1 else (rest, "", "")
    return user, name, port


def _looked_up(name: str, ssh_config: Path) -> dict[str, Any]:
    """Return the ssh_config settings of a host, read by OpenSSH where it is installed, else by paramiko."""
    if not shutil.which("ssh"):
        import paramiko  # here, because it is slow to import

        return dict(paramiko.SSHConfig.from_path(str(ssh_config)).lookup(name))
    read = subprocess.run(["ssh", "-G", "-F", str(ssh_config), "--", name], stdin=subprocess.DEVNULL,
                          capture_output=True, encoding="utf-8", errors="replace", check=False)
    if read.returncode:
        raise ConfigError(f"{ssh_config}: ssh cannot parse it: {read.stderr.strip()[-300:]}",
                          remedy=f"ssh -G -F {ssh_config} {name}")
    rows = [line.partition(" ")[::2] for line in read.stdout.splitlines()]
    found: dict[str, Any] = dict(rows)
    identities = [value for key, value in rows if key == "identityfile"]
    found["identityfile"] = [] if set(_NOT_CHOSEN) <= set(identities) else identities
    return found
