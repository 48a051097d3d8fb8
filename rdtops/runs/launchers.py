"""Launchers: the launcher of a host, bundled or from a plugin."""

from __future__ import annotations

from rdtops.contract.config import nearest
from rdtops.errors import ConfigError
from rdtops.launcher import Launcher, Traits
from rdtops.plugging import registry
from rdtops.plugging.registry import Registry
from rdtops.runs import detached
from rdtops.ssh.hosts import Host


def launcher(host: Host, plugins: Registry | None = None) -> Launcher:
    """Return the launcher that hosts.toml names. Without `plugins` they are loaded.

    Raises ConfigError when there is none of that name; it lists the known ones and the errors of plugins."""
    bundled = {name: detached.Detached(name) for name in detached.PROGRAMS}
    if host.launcher in bundled:
        return bundled[host.launcher]
    registered: dict[str, Launcher] = {}
    problems = []
    for call in (plugins or registry.loaded()).call("register_launchers", host):
        if call.error is not None:
            problems.append(f"{call.plugin}: {call.error}")
        registered.update({each.name: each for each in call.value or () if isinstance(each, Launcher)})
    if host.launcher not in registered:
        names = [*bundled, *registered]
        raise ConfigError(f"hosts.{host.name}.launcher: there is no launcher {host.launcher!r}"
                          f"{nearest(host.launcher, names)}; launchers: {', '.join(names)}"
                          + "".join(f"\n{problem}" for problem in problems), remedy="inv plugins   # lists them")
    return registered[host.launcher]


def traits(host: Host) -> Traits:
    """Return the traits of the host's launcher. For an unknown launcher nothing is assumed of the machine that we log
    in to; the preflight check reports it."""
    try:
        return Traits.of(launcher(host))
    except ConfigError:
        return Traits()
