"""Secrets: values that hosts.toml only names. They go from this laptop over stdin into one file of mode 0600 on the
host, which launch.sh reads; no command line, log, Journal, config.json or error has them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from rdtops.errors import ConfigError
from rdtops.remote.command import Secret, quoted, variable
from rdtops.remote.hosts import Host


def laptop_file() -> Path:
    """NAME=value lines, for whoever does not want them in the environment of every program."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "rdtops" / "secrets"


def host_file(workspace: str, host: Host) -> str:
    """Where they lie on the host; '' when it needs none."""
    return f"{workspace}/.secrets/{host.name}.sh" if host.secrets else ""


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
    if not host.secrets:
        return None
    lines = [f"export {variable(name)}={quoted(value.reveal())}\n" for name, value in values(host.secrets).items()]
    return {"path": host_file(workspace, host), "text": "".join(lines)}


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
