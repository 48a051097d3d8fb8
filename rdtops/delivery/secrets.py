"""Secrets: values that hosts.toml only names, and secret values of its env. They go from this laptop over stdin into
one file of mode 0600 on the host, which launch.sh reads; no command line, log, Journal, config.json or error contains
them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from rdtops.errors import ConfigError
from rdtops.ssh import redaction
from rdtops.ssh.command import Secret, quoted, variable
from rdtops.ssh.hosts import Host
from rdtops.user_folders import config_folder


def laptop_file() -> Path:
    """Return the file of NAME=value lines, an alternative to environment variables."""
    return config_folder() / "secrets"


def host_file(workspace: str, host: Host) -> str:
    """Return the file of the secrets on the host; '' when it needs none."""
    return f"{workspace}/.secrets/{host.name}.sh" if host.secrets or in_env(host) else ""


def in_env(host: Host) -> dict[str, str]:
    """Return the variables of env that are secret: tokens by name, and URLs with a password (of mirrors, proxies)."""
    return {name: value for name, value in host.env.items() if redaction.is_secret(name, value)}


def all_of(host: Host) -> set[str]:
    """Return all values that no text about the host may show."""
    found = redaction.secrets_of(host)
    with contextlib.suppress(ConfigError):  # missing ones are reported where they are needed
        found |= {value.reveal() for value in values(host.secrets).values()}
    return found


def values(names: Sequence[str]) -> dict[str, Secret]:
    """Return the values from the environment, else from the file. Raises ConfigError naming the missing ones, or when
    others can read the file."""
    filed = _filed() if any(name not in os.environ for name in names) else {}
    missing = [name for name in names if not os.environ.get(name) and name not in filed]
    if missing:
        raise ConfigError(f"hosts.toml has secrets = {list(names)}, but {', '.join(missing)} is neither in the "
                          f"environment of this laptop nor in {laptop_file()}",
                          remedy=f"export {missing[0]}=…   # or a line {missing[0]}=… in {laptop_file()}, chmod 600")
    return {name: Secret(os.environ.get(name) or filed[name].reveal()) for name in names}


def for_the_host(workspace: str, host: Host) -> dict[str, str] | None:
    """Return what the launch sends over stdin: the path of the file, and its text for sh."""
    known = {**{name: value.reveal() for name, value in values(host.secrets).items()}, **in_env(host)}
    return {"path": host_file(workspace, host), "text": exports(known)} if known else None


def exports(variables: Mapping[str, str]) -> str:
    """Return the export lines for sh."""
    return "".join(f"export {variable(name)}={quoted(value)}\n" for name, value in variables.items())


def _filed() -> dict[str, Secret]:
    path = laptop_file()
    try:
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"{path} can be read by others (mode {stat.S_IMODE(mode):04o})",
                              remedy=f"chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "=" in line and line[:1] != "#")
    return {name.strip(): Secret(value.strip().strip("\"'")) for name, _, value in pairs}
