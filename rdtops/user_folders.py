"""User folders: where this user's own hosts, plugins, secrets and records lie on this laptop."""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """Return the folder of what the user writes: hosts.toml, plugins/, secrets."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "rdtops"


def state_folder() -> Path:
    """Return the folder of what rdtops remembers; RDTOPS_STATE names another."""
    given = os.environ.get("RDTOPS_STATE")
    return Path(given) if given else Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "rdtops"
