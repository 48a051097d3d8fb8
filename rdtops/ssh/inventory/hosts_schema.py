"""Schema of hosts.toml: its tables, their keys, and what each may hold.

docs/hosts.md and the JSON schema for editors are made from it: `python -m rdtops.ssh.hosts_reference`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
PresetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,99}$")]  # run ids contain it
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(min_length=1)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f\"]+$")]  # it goes into an ssh_config
Address = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f\"@]+$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Bind = Annotated[str, StringConstraints(pattern=r"^[/~][^,]*$")]
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/-]*$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _key(meaning: str, default: Any = None, **constraints: Any) -> Any:
    return Field(default=default, description=meaning, **constraints)


def _list(meaning: str) -> Any:
    return Field(default=(), description=meaning, strict=False)


class HopTable(_Table):
    """A jump host. Absent keys have the defaults of OpenSSH."""

    address: Address = Field(description="host name or IP address")
    port: Port | None = _key("of its sshd")
    user: Line | None = _key("to log in as; default: the user name on this laptop")
    identity_file: Line | None = _key("private key on this laptop; no other key is offered then")
    known_hosts: Line | None = _key("file with its host key; `inv trust` writes it")
    connect_timeout_s: Annotated[int, Field(ge=1, le=600)] | None = _key("seconds")
    relay: bool | None = _key("of a jump that forbids forwarding: a program on it carries the bytes")


class EnvironmentTable(_Table):
    """The trainer's Python on the host, and how `inv deploy --env` makes it: one of conda, venv and container."""

    conda: Text | None = _key("an existing conda environment: its name or prefix")
    venv: Text | None = _key("a venv; `inv deploy --env` makes and updates it")
    container: Text | None = _key("an image of apptainer")
    binds: tuple[Bind, ...] = _list("folders that the container sees beside home and workspace")
    modules: tuple[Module, ...] = _list("modules of Lmod or Environment Modules that are loaded first")
    requirements: tuple[Text, ...] = _list("packages for the venv, beside the trainer's own or instead of one")
    extras: tuple[Literal["eval", "trackers"], ...] = _list(
        "what comes beside the trainer: `eval`, LIBERO's simulator, and `trackers`, TensorBoard and W&B")
    index_url: Text | None = _key("package index of pip; default: that of the host's pip.conf")
    extra_index_urls: tuple[Text, ...] = _list("further indexes")
    offline: bool | None = _key("the host reaches no index: this laptop downloads the wheels and sends them")

    @model_validator(mode="after")
    def _one_of_them(self) -> EnvironmentTable:
        given = [name for name in ("conda", "venv", "container") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} cannot be used together")
        if self.binds and not self.container:
            raise ValueError("binds require a container")
        return self


class RecoveryTable(_Table):
    """When the supervisor restarts a training of this host: [runs.md](runs.md)."""

    restarts: Annotated[int, Field(ge=0)] | None = _key("in a row without a new checkpoint; 0: none")
    backoff_s: Seconds | None = _key("before a restart; doubled for each one in a row")
    backoff_max_s: Seconds | None = _key("the longest of these waits")
    stuck_times: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = _key(
        "a rank is stuck when the journal gains nothing for this many median steps")
    stuck_floor_s: Seconds | None = _key("and at least so long")
    setup_limit_s: Seconds | None = _key("the same before the first step")
    grace_s: Seconds | None = _key("for ranks to save when their launcher is gone")


class HostTable(HopTable):
    """A GPU host. Its jumps are names, and an alias of ~/.ssh/config may stand for address and route."""

    address: Address | None = _key(  # type: ignore[assignment]
        "host name or IP address; default: the Host of ~/.ssh/config of this name")
    jumps: tuple[Name, ...] = _list("names of [jumps.NAME], outermost first")
    ssh_alias: Line | None = _key("a Host of ~/.ssh/config of another name, for address and route")
    transport: Literal["auto", "fabric", "openssh"] | None = _key("what logs in; auto: Fabric, OpenSSH where needed")
    workspace: Text | None = _key("folder on the host for releases, assets and runs")
    python: Text | None = _key("interpreter on the host, 3.8 or newer")
    environment: EnvironmentTable | None = _key("the trainer's Python")
    launcher: Name | None = _key("auto, tmux, setsid, or that of a plugin, such as slurm")
    recovery: RecoveryTable | None = _key("restarts")
    gpus: Annotated[int, Field(ge=0)] | None = _key("how many GPUs it should have; the check compares")
    preset: Text | None = _key("training preset: a bundled one or [presets.NAME]")
    set: Mapping[str, Any] | None = _key("training settings of this host, over its preset: { num_processes = 4 }")
    env: Mapping[str, str] | None = _key("environment variables of its trainings")
    secrets: tuple[Variable, ...] = _list("environment variables whose values only this laptop knows")
    keep_releases: Annotated[int, Field(ge=1)] | None = _key("how many releases stay there")
    assets: Mapping[str, str] | None = _key("asset name = existing folder on the host; deploy leaves it alone")
    plugins: Mapping[str, dict[str, Any]] | None = _key("options of plugins, a table each; `inv plugins` lists them")
    default: bool | None = _key("the host that is meant without --host")
    example: bool | None = _key("an example: asked only when it is named")

    @field_validator("env")
    @classmethod
    def _variables(cls, env: Mapping[str, str]) -> Mapping[str, str]:
        wrong = [name for name in env if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]
        if wrong:
            raise ValueError(f"not a valid environment variable name: {', '.join(wrong)}")
        return env

    @model_validator(mode="after")
    def _no_secret_in_the_open(self) -> HostTable:
        both = sorted({*(self.env or {})} & {*self.secrets})
        if both:
            raise ValueError(f"secrets and env both contain {', '.join(both)}; env is not secret: keep it in secrets "
                             "only")
        return self


class HostsFile(_Table):
    """A file of hosts."""

    include: Text | None = _key("another such file, whose keys come before the same keys here; it need not exist")
    required_plugins: tuple[str, ...] = _list("plugins without which nothing is checked or trained")
    assets: Mapping[str, str] = Field(default_factory=dict, description="asset name = folder on this laptop")
    presets: Mapping[PresetName, Mapping[str, Any]] = Field(
        default_factory=dict, description="training presets of your own: `base` and settings")
    jumps: Mapping[Name, HopTable] = Field(default_factory=dict, description="jump hosts")
    hosts: Mapping[Name, HostTable] = Field(default_factory=dict, description="GPU hosts")
