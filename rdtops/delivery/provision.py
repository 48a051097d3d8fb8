"""Provision: the trainer's Python environment on a host, made from pinned requirements, with or without internet.

The user chooses the build of torch for a host: `requirements` and `index_url` under [hosts.X.environment].
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rdtops
from rdtops import answers
from rdtops.errors import ConfigError, RunError, UsageError
from rdtops.hostlib import names
from rdtops.on_host import environment_builder
from rdtops.ssh import environment
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Environment, Host
from rdtops.ssh.redaction import redacted, secrets_of
from rdtops.transfer.transfer import TransferProgress, plan_upload, upload

CONDA_PYTHON = "3.11"  # what constraints.txt was tested with
INSTALL_S = 3600.0  # torch with CUDA has gigabytes
_ROOT = Path(rdtops.__file__).resolve().parents[1]
_NO_NETWORK = ("Temporary failure in name resolution", "Network is unreachable", "Max retries exceeded",
               "Failed to establish a new connection", "Name or service not known", "timed out")


@dataclass(frozen=True)
class Recipe:
    """What is installed: the lines of pip's two files, and pip's indexes."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    variables: Mapping[str, str]  # PIP_INDEX_URL and the like; they may hold a password
    offline: bool = False

    def digest(self, python: str) -> str:
        """Return the digest of what was requested; pip's indexes are not part of it."""
        content = json.dumps([sorted(self.requirements), sorted(self.constraints), python])
        return hashlib.md5(content.encode()).hexdigest()


@dataclass(frozen=True)
class Provisioned:
    """The environment of a host after `inv deploy --env`."""

    host: str
    place: str
    state: str  # "was up to date", "made" or "would be made"
    python: str
    packages: int | None
    seconds: float
    removed: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()  # in a dry run


def recipe(declared: Environment, tracker: str = "off") -> Recipe:
    """Return the trainer's requirements, pinned by constraints.txt; the host's replace those of the same name."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    ours = [*extras["trainer"], *(line for line in extras["trackers"] if line.startswith(tracker))]
    theirs = {_name(line) for line in declared.requirements}
    pins = [line for line in (_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
            if line and line[0] != "#"]
    variables = {"PIP_INDEX_URL": declared.index_url or "", "PIP_EXTRA_INDEX_URL": " ".join(declared.extra_index_urls)}
    return Recipe((*declared.requirements, *(line for line in ours if _name(line) not in theirs)),
                  tuple(line for line in pins if _name(line) not in theirs),
                  {name: value for name, value in variables.items() if value}, declared.offline)


def provision(connection: Connection, wanted: Recipe, *, dry_run: bool = False,
              say: Callable[[str], None] = lambda _: None,
              progress: Callable[[TransferProgress], None] | None = None) -> Provisioned:
    """Make the environment that the host declares, unless it is up to date. On failure the previous one is unchanged.
    Raises UsageError where none is declared, RunError with the output of pip."""
    host, begun_s = connection.host, time.monotonic()
    place, prefix = _place(connection), environment.modules(host)
    conda = CONDA_PYTHON if host.environment.conda else ""
    found = connection.call(environment_builder, {
        "op": "look", "place": place, "prefix": prefix, "conda": conda,
        "elsewhere": environment.conda_places(host.environment.conda) if host.environment.conda else []})
    digest, short = wanted.digest(found["python"]), connection.short(place)
    if found["is_there"] and not found["is_ours"]:
        raise _foreign(host, short)
    if found["digest"] == digest:
        return Provisioned(host.name, short, "was up to date", found["python"], None, time.monotonic() - begun_s)
    if dry_run:
        return Provisioned(host.name, short, "would be made", found["python"], None, 0.0,
                           requirements=wanted.requirements)
    wheels = _sent_wheels(connection, wanted, found, digest, say, progress) if wanted.offline else ""
    say(f"{host.name}: installing {len(wanted.requirements)} requirements into {short}; minutes if torch is new")
    answer = connection.call(environment_builder, {
        "op": "make", "place": place, "prefix": prefix, "digest": digest, "wheels": wheels, "conda": conda,
        "requirements": _text(wanted.requirements), "constraints": _text(wanted.constraints),
        "variables": {} if wheels else dict(wanted.variables)}, timeout_s=INSTALL_S)
    if "problem" in answer:
        raise _failed(host, short, answer)
    if wheels:
        connection.run(Command("rm", "-rf", f"{connection.workspace}/wheelhouse"))  # gigabytes that are installed now
    return Provisioned(host.name, short, "made", found["python"], answer["packages"], time.monotonic() - begun_s,
                       tuple(connection.short(folder) for folder in answer["removed"]))


# --- wheels, for a host without internet ---

def _sent_wheels(connection: Connection, wanted: Recipe, found: Mapping[str, Any], digest: str,
                 say: Callable[[str], None], progress: Callable[[TransferProgress], None] | None) -> str:
    """Send all wheels, and return their folder on the host. Raises RemoteError when its platform is unknown."""
    platform = answers.platform(connection.host.name, found)
    say(f"fetching wheels for Python {platform['python']} on {platform['machine']}, glibc {platform['glibc']}")
    local = fetch_wheels(wanted, platform, digest)
    remote = f"{connection.workspace}/wheelhouse/{digest[:12]}"
    upload(connection, plan_upload(connection, local, remote), progress)
    return remote


def fetch_wheels(wanted: Recipe, found: Mapping[str, str], digest: str) -> Path:
    """Download the wheels to this laptop, once for each digest, whole or not at all. Raises RunError with pip's
    output."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rdtops" / "wheelhouse"
    folder = cache / names.component(f"{digest[:12]}-{found['machine']}")
    if folder.is_dir():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lists = {part / "requirements.txt": wanted.requirements, part / "constraints.txt": wanted.constraints}
    for file, lines in lists.items():
        file.write_text(_text(lines), encoding="utf-8")
    words = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check",
             "--only-binary=:all:", "--dest", str(part), "--implementation", "cp", "--python-version", found["python"],
             *_platforms(found), "-r", str(part / "requirements.txt"), "-c", str(part / "constraints.txt")]
    done = subprocess.run(words, env={**os.environ, **wanted.variables}, capture_output=True, encoding="utf-8",
                          errors="replace", check=False)
    if done.returncode:
        raise RunError(f"this laptop could not download the wheels for Python {found['python']} on {found['machine']}: "
                       f"{redacted((done.stderr or done.stdout).strip())[-800:]}",
                       remedy="requirements or index_url under [hosts.X.environment]: a version that has a wheel")
    for file in lists:
        file.unlink()
    part.rename(folder)
    return folder


def _platforms(found: Mapping[str, str]) -> list[str]:
    """Return pip's options for all platform tags that this glibc supports, newest first."""
    machine = found["machine"]
    minor = int((re.fullmatch(r"2\.(\d+)", found["glibc"]) or ["", "17"])[1])
    tags = [*(f"manylinux_2_{number}_{machine}" for number in range(minor, 4, -1)), f"manylinux2014_{machine}",
            f"manylinux2010_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]
    return [word for tag in tags for word in ("--platform", tag)]


# --- words ---

def _place(connection: Connection) -> str:
    declared, name = connection.host.environment, connection.host.name
    if declared.venv:
        return connection.absolute(declared.venv)
    if declared.conda:  # by its name: the folder in which conda looks with any root
        return connection.absolute(environment.conda_places(declared.conda)[-1])
    raise UsageError(f"{name} declares no environment to make",
                     remedy=f'environment = {{ venv = "~/venvs/rdt" }} under [hosts.{name}] in hosts.toml')


def _foreign(host: Host, place: str) -> RunError:
    return RunError(f"{host.name}: {place} was not made by `inv deploy --env`, so it is not changed",
                    remedy=f"mv {place} {place}.before   # on {host.name}; or another venv in hosts.toml")


def _failed(host: Host, place: str, answer: Mapping[str, Any]) -> RunError:
    output, problem = redacted(str(answer["said"]).strip(), secrets_of(host)), answer["problem"]
    kept = "the previous environment is unchanged"
    if problem == "foreign":
        return _foreign(host, place)
    if problem == "busy":
        return RunError(f"{host.name}: another `inv deploy --env` is running for {place}",
                        remedy=f"inv deploy --env --host {host.name}   # when it is done")
    if problem == "conda":
        return RunError(f"{host.name}: conda could not make {place}; {kept}: {output[-600:]}",
                        remedy='environment = { venv = "~/venvs/rdt" } in hosts.toml needs no conda')
    if problem == "venv":
        return RunError(f"{host.name}: no virtual environment can be made on the host; {kept}: {output[-600:]}",
                        remedy=f"sudo apt-get install -y python3-venv   # on {host.name}")
    if any(words in output for words in _NO_NETWORK):
        return RunError(f"{host.name}: pip cannot reach its index from the host; {kept}: {output[-600:]}",
                        remedy=f"offline = true under [hosts.{host.name}.environment]: the laptop sends the wheels")
    return RunError(f"{host.name}: pip could not install the requirements into {place}; {kept}: {output[-1200:]}",
                    remedy=f"requirements, index_url or python under [hosts.{host.name}] in hosts.toml")


def _name(requirement: str) -> str:
    """Return the normalised name of PEP 503: `Foo_bar[extra]>=1` is foo-bar."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if not found:
        raise ConfigError(f"{requirement!r} names no package")
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
