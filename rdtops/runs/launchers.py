"""Which launcher a host has: one of the bundled ones, or one that a plugin brings."""

from __future__ import annotations

import functools

from rdtops.contract.config import nearest
from rdtops.errors import ConfigError
from rdtops.launcher import Launcher
from rdtops.plugging import registry
from rdtops.plugging.registry import Registry
from rdtops.runs import detached
from rdtops.ssh.hosts import LOCAL_LAUNCHERS, Host


def of(host: Host, plugins: Registry | None = None) -> Launcher:
    """The launcher that hosts.toml names. Raises ConfigError when there is none of that name, naming those there are
    and whatever kept a plugin from bringing one. Without `plugins` they are loaded."""
    if host.launcher in LOCAL_LAUNCHERS:
        return detached.Detached(host.launcher)
    found: dict[str, Launcher] = {}
    problems = []
    for call in (plugins or _plugins()).call("register_launchers", host):
        if call.error is not None:
            problems.append(f"{call.plugin}: {call.error}")
        found.update({launcher.name: launcher for launcher in call.value or () if isinstance(launcher, Launcher)})
    if host.launcher not in found:
        names = [*LOCAL_LAUNCHERS, *found]
        raise ConfigError(f"hosts.{host.name}.launcher: there is no launcher {host.launcher!r}"
                          f"{nearest(host.launcher, names)}; there are {', '.join(names)}"
                          + "".join(f"\n{problem}" for problem in problems), remedy="inv plugins   # who brings one")
    return found[host.launcher]


@functools.cache
def _plugins() -> Registry:
    """Loaded once: a run that is followed asks for its launcher again and again."""
    return registry.load()
