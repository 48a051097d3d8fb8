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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdtops import answers
from rdtops.delivery import proven_environments, requirements
from rdtops.delivery.build_steps import BuildStep, step_of
from rdtops.delivery.proven_environments import Chosen
from rdtops.errors import CommandFailed, CommandTimeout, RunError, UsageError
from rdtops.hostlib import fields, names, nvidia_smi
from rdtops.on_host import environment_builder
from rdtops.porter.entries import Problem
from rdtops.ssh import environment
from rdtops.ssh.command import Command
from rdtops.ssh.connection import CallAnswer, Connection
from rdtops.ssh.hosts import Environment, Host
from rdtops.ssh.redaction import redacted, secrets_of
from rdtops.transfer.transfer import TransferProgress, plan_upload, upload

PINNED_BY_TORCH = {"triton"}  # each build of torch for CUDA asks for its own
CONDA_PYTHON = "3.11"  # what constraints.txt was tested with
IMPORTED = ("torch", "transformers", "accelerate", "diffusers", "h5py")  # a wheel may lack a library of the system
INSTALL_S = 3600.0  # torch with CUDA has gigabytes
_NO_NETWORK = ("Temporary failure in name resolution", "Network is unreachable", "Max retries exceeded",
               "Failed to establish a new connection", "Name or service not known", "timed out")


@dataclass(frozen=True)
class Recipe:
    """What is installed: the lines of pip's two files, and pip's indexes."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    variables: Mapping[str, str]  # PIP_INDEX_URL and the like; they may hold a password
    offline: bool = False
    imports: tuple[str, ...] = ()  # modules that must be importable before the environment is used
    torch: str = ""  # the requirement that pip has in the end
    why: str = ""  # it is not the newest torch

    def digest(self, python: str) -> str:
        """Return the digest of what was requested; pip's indexes are not part of it."""
        content = json.dumps([sorted(self.requirements), sorted(self.constraints), python])
        return hashlib.md5(content.encode()).hexdigest()


@dataclass(frozen=True)
class EnvironmentFacts:
    """What there is on the host, before anything is downloaded. `found`: the answer of the host program."""

    place: str
    found: Mapping[str, Any]

    @property
    def python(self) -> str:
        return fields.text(self.found["python"])

    @property
    def driver(self) -> str:
        """The version of NVIDIA's driver; '' where there is none that answers."""
        return nvidia_smi.driver(fields.text(self.found["driver"]))

    @property
    def problem(self) -> str:
        """What nvidia-smi says in place of a version; '' where it is not installed."""
        return "" if self.driver else fields.text(self.found["driver"]).strip()


@dataclass(frozen=True)
class Provisioned:
    """The environment of a host after `inv deploy --env`."""

    host: str
    place: str
    state: str  # "was up to date", "made" or "would be made"
    python: str
    torch: str = ""  # the requirement
    why: str = ""  # it is not the newest torch
    packages: int | None = None
    seconds: float = 0.0
    removed: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()  # in a dry run


def look(connection: Connection, on_step: Callable[[BuildStep], None] = lambda _: None) -> EnvironmentFacts:
    """Return what there is on the host, before anything is downloaded. Raise UsageError where hosts.toml declares no
    environment."""
    host, place = connection.host, _place(connection)
    on_step(step_of("look", "", None, 0.0))
    found = connection.call(environment_builder, {
        "op": "look", "place": place, "prefix": environment.modules(host), "conda": _conda(host),
        "elsewhere": environment.conda_places(host.environment.conda) if host.environment.conda else []})
    return EnvironmentFacts(place, found)


def recipe(declared: Environment, chosen: Chosen, tracker: str = "off") -> Recipe:
    """Return the trainer's requirements, pinned by a proven environment; the host's replace those of the same name."""
    ours = requirements.of_trainer(tracker, declared.extras)
    theirs = set(map(requirements.package_of, declared.requirements))
    variables = {"PIP_INDEX_URL": declared.index_url or "", "PIP_EXTRA_INDEX_URL": " ".join(declared.extra_index_urls)}
    return Recipe((*declared.requirements, *(line for line in ours if requirements.package_of(line) not in theirs)),
                  tuple(line for line in chosen.environment.constraints
                        if requirements.package_of(line) not in {*theirs, *PINNED_BY_TORCH}),
                  {name: value for name, value in variables.items() if value}, declared.offline, IMPORTED,
                  proven_environments.declared_torch(declared) or f"torch=={chosen.environment.torch}", chosen.why)


def provision(connection: Connection, facts: EnvironmentFacts, wanted: Recipe, *, dry_run: bool = False,
              say: Callable[[str], None] = lambda _: None, on_step: Callable[[BuildStep], None] = lambda _: None,
              progress: Callable[[TransferProgress], None] | None = None) -> Provisioned:
    """Make the environment that the host declares, unless it is up to date. On failure the previous one is unchanged.
    Raises RunError with the output of pip."""
    host, begun_s, found, place = connection.host, time.monotonic(), facts.found, facts.place
    digest, short = wanted.digest(facts.python), connection.short(place)
    if found["is_there"] and not found["is_ours"]:
        raise _foreign(host, short)
    done = Provisioned(host.name, short, "made", facts.python, wanted.torch, wanted.why)
    if found["digest"] == digest:
        return replace(done, state="was up to date")
    if dry_run:
        return replace(done, state="would be made", requirements=wanted.requirements)
    if wanted.why:
        say(f"{host.name}: it takes {wanted.torch}: {wanted.why}")
    if wanted.offline:
        on_step(step_of("wheels", "", None, time.monotonic() - begun_s))
    wheels = _sent_wheels(connection, wanted, found, digest, say, progress) if wanted.offline else ""
    say(f"{host.name}: making {short} of {len(wanted.requirements)} requirements; minutes if torch is new")
    answer = _built(connection, on_step, {
        "op": "make", "place": place, "prefix": environment.modules(host), "digest": digest, "wheels": wheels,
        "conda": _conda(host), "imports": list(wanted.imports),
        "requirements": _text(wanted.requirements), "constraints": _text(wanted.constraints),
        "variables": {} if wheels else dict(wanted.variables)})
    if "problem" in answer:
        raise _failed(host, short, answer)
    if wheels:
        connection.run(Command("rm", "-rf", f"{connection.workspace}/wheelhouse"))  # gigabytes that are installed now
    return replace(done, packages=answer["packages"], seconds=time.monotonic() - begun_s,
                   removed=tuple(connection.short(folder) for folder in answer["removed"]))


def _built(connection: Connection, on_step: Callable[[BuildStep], None], request: dict[str, Any]) -> CallAnswer:
    """Let the host make the environment, and hand on what it does. Raise CommandTimeout after INSTALL_S."""
    host, begun_s = connection.host, time.monotonic()
    secrets, step = secrets_of(host), None
    with connection.far(environment_builder, request) as stream:
        try:
            while "doing" in (message := stream.wire.hear()):
                seconds = time.monotonic() - begun_s
                if seconds > INSTALL_S:
                    raise CommandTimeout(f"{host.name}: the environment was not made within {INSTALL_S:g} s")
                line = redacted(fields.text(message.get("said")), secrets)
                step = step_of(fields.text(message["doing"]), line, step, seconds)
                on_step(step)
        except Problem as problem:
            raise CommandFailed(f"{host.name}: the environment_builder program: {problem.reason}") from None
    return CallAnswer.of(f"{host.name}: the answer of the environment_builder program", dict(message))


def remedy(host: Host, tracker: str = "off") -> str:
    """Return how a host gets the trainer's environment, with a tracker: what to declare in hosts.toml where it declares
    none, and what to type."""
    declare = "" if environment.is_declared(host) else (
        f'environment = {{ venv = "~/venvs/rdt" }} under [hosts.{host.name}] in hosts.toml, then ')
    given = "" if tracker == "off" or "trackers" in host.environment.extras else f" --set tracker={tracker}"
    return f"{declare}inv deploy --env --host {host.name}{given}"


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

def _conda(host: Host) -> str:
    """Return the version of Python for a conda environment; '' where it is a venv."""
    return CONDA_PYTHON if host.environment.conda else ""


def _place(connection: Connection) -> str:
    declared, name = connection.host.environment, connection.host.name
    if declared.venv:
        return connection.absolute(declared.venv)
    if declared.conda:  # by its name: the folder in which conda looks with any root
        return connection.absolute(environment.conda_places(declared.conda)[-1])
    raise UsageError(f"{name} declares no environment to make", remedy=remedy(connection.host))


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
    if problem == "import":
        return RunError(f"{host.name}: the packages are installed and cannot be imported; {kept}: {output[-1200:]}",
                        remedy=f"requirements or python under [hosts.{host.name}] in hosts.toml, or what it names")
    if any(words in output for words in _NO_NETWORK):
        return RunError(f"{host.name}: pip cannot reach its index from the host; {kept}: {output[-600:]}",
                        remedy=f"offline = true under [hosts.{host.name}.environment]: the laptop sends the wheels")
    return RunError(f"{host.name}: pip could not install the requirements into {place}; {kept}: {output[-1200:]}",
                    remedy=f"requirements, index_url or python under [hosts.{host.name}] in hosts.toml")


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
