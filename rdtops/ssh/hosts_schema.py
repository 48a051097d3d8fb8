"""Schema of hosts.toml: its tables and keys, and what each may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(min_length=1)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f\"]+$")]  # it goes into an ssh_config
Address = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f\"@]+$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class HopTable(Table):
    """The keys of a jump in hosts.toml; absent values are those of Hop."""

    address: Address
    port: Port | None = None
    user: Line | None = None
    identity_file: Line | None = None
    known_hosts: Line | None = None
    connect_timeout_s: Annotated[int, Field(ge=1, le=600)] | None = None
    relay: bool | None = None


class EnvironmentTable(Table):
    conda: Text | None = None
    venv: Text | None = None
    container: Text | None = None
    binds: tuple[Annotated[str, StringConstraints(pattern=r"^[/~][^,]*$")], ...] = Field(default=(), strict=False)
    modules: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/-]*$")], ...] = Field(
        default=(), strict=False)
    requirements: tuple[Text, ...] = Field(default=(), strict=False)
    index_url: Text | None = None
    extra_index_urls: tuple[Text, ...] = Field(default=(), strict=False)
    offline: bool | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> EnvironmentTable:
        given = [name for name in ("conda", "venv", "container") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} cannot be used together")
        if self.binds and not self.container:
            raise ValueError("binds require a container")
        return self


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RecoveryTable(Table):
    """The keys of Recovery."""

    restarts: Annotated[int, Field(ge=0)] | None = None
    backoff_s: Seconds | None = None
    backoff_max_s: Seconds | None = None
    stuck_times: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    stuck_floor_s: Seconds | None = None
    setup_limit_s: Seconds | None = None
    grace_s: Seconds | None = None


class HostTable(HopTable):
    """The keys of a host: jumps are names, and an ssh_config alias may stand for address and route."""

    address: Address | None = None  # type: ignore[assignment]
    jumps: tuple[Name, ...] = Field(default=(), strict=False)
    ssh_alias: Line | None = None
    transport: Literal["auto", "fabric", "openssh"] | None = None
    workspace: Text | None = None
    python: Text | None = None
    environment: EnvironmentTable | None = None
    launcher: Name | None = None  # checked when the plugins are loaded: one of them may provide it
    recovery: RecoveryTable | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    preset: Text | None = None
    env: Mapping[str, str] | None = None
    secrets: tuple[Variable, ...] = Field(default=(), strict=False)
    keep_releases: Annotated[int, Field(ge=1)] | None = None
    assets: Mapping[str, str] | None = None
    plugins: Mapping[str, dict[str, Any]] | None = None
    default: bool | None = None

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

    @model_validator(mode="after")
    def _reachable(self) -> HostTable:
        if self.address is None and self.ssh_alias is None:
            raise ValueError("address is missing; set address, or ssh_alias = a Host of ~/.ssh/config")
        return self


class HostsFile(Table):
    include: Text | None = None  # another such file: its keys come before the same keys here. It need not exist
    assets: Mapping[str, str] = Field(default_factory=dict)
    required_plugins: tuple[str, ...] = Field(default=(), strict=False)
    jumps: Mapping[Name, HopTable] = Field(default_factory=dict)
    hosts: Mapping[Name, HostTable] = Field(default_factory=dict)
