"""Secrets: values that hosts.toml only names, and those of its env that nobody else may see. They go from this laptop
over stdin into one file of mode 0600 on the host, which launch.sh reads; no command line, log, Journal, config.json or
error has them."""

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


def laptop_file() -> Path:
    """NAME=value lines, for whoever does not want them in the environment of every program."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "rdtops" / "secrets"


def host_file(workspace: str, host: Host) -> str:
    """Where they lie on the host; '' when it needs none."""
    return f"{workspace}/.secrets/{host.name}.sh" if host.secrets or in_env(host) else ""


def in_env(host: Host) -> dict[str, str]:
    """Variables of env that are secrets: tokens by their names, and addresses with a password (of mirrors, proxies)."""
    return {name: value for name, value in host.env.items() if redaction.is_secret(name, value)}


def all_of(host: Host) -> set[str]:
    """Every value that no text about the host may show."""
    found = redaction.secrets_of(host)
    with contextlib.suppress(ConfigError):  # whoever needs them says what is missing
        found |= {value.reveal() for value in values(host.secrets).values()}
    return found


def values(names: Sequence[str]) -> dict[str, Secret]:
    """From the environment, else from the file. Raises ConfigError naming those that are nowhere, or when others may
    read the file."""
    filed = _filed() if any(name not in os.environ for name in names) else {}
    missing = [name for name in names if not os.environ.get(name) and name not in filed]
    if missing:
        raise ConfigError(f"hosts.toml has secrets = {list(names)}, and this laptop does not know "
                          f"{', '.join(missing)}: neither its environment nor {laptop_file()} does",
                          remedy=f"export {missing[0]}=…   # or a line {missing[0]}=… in {laptop_file()}, chmod 600")
    return {name: Secret(os.environ.get(name) or filed[name].reveal()) for name in names}


def for_the_host(workspace: str, host: Host) -> dict[str, str] | None:
    """What the launch sends over stdin: where the file is to lie, and what sh reads there."""
    known = {**{name: value.reveal() for name, value in values(host.secrets).items()}, **in_env(host)}
    return {"path": host_file(workspace, host), "text": exports(known)} if known else None


def exports(variables: Mapping[str, str]) -> str:
    """Lines that sh reads."""
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
