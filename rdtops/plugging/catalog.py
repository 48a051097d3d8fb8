"""Catalog: all plugins with their hooks, their options in hosts.toml, and their problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdtops.errors import ConfigError
from rdtops.plugging.discovery import Plugin
from rdtops.plugging.registry import Registry, options_of
from rdtops.ssh.hosts import Host


@dataclass(frozen=True)
class PluginRow:
    """A plugin. `values`: host -> option -> value in hosts.toml; only of hosts whose table is valid."""

    plugin: Plugin
    values: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.plugin.disabled or not self.problems


def rows(registry: Registry, hosts: Sequence[Host], required: Sequence[str]) -> Iterator[PluginRow]:
    missing = registry.missing(required)
    findings = [finding for host in hosts for finding in registry.option_findings(host)]
    for plugin in registry.plugins:
        problems = [plugin.problem, *(f.summary for f in findings if f.source == plugin.name)]
        if plugin.name in missing:
            problems.append("hosts.toml requires it")
        yield PluginRow(plugin, _values(plugin, hosts), tuple(p for p in problems if p))
    known = {p.name for p in registry.plugins}
    for name, why in missing.items():
        if name not in known:
            yield PluginRow(Plugin(name, "required_plugins of hosts.toml", problem=why), {}, (why,))
    for finding in findings:
        if finding.source not in known:
            yield PluginRow(Plugin(finding.source, "hosts.toml", problem=finding.summary), {}, (finding.summary,))


def _values(plugin: Plugin, hosts: Sequence[Host]) -> Mapping[str, Mapping[str, Any]]:
    found = {}
    for host in hosts:
        try:
            options_of(plugin, host)
        except ConfigError:
            continue
        if plugin.name in host.plugins:
            found[host.name] = host.plugins[plugin.name]
    return found
