"""Own presets: [presets.NAME] of hosts.toml, each on top of another preset, and `set` of a host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rdtops.contract import config as train_config
from rdtops.contract.config import TrainConfig, nearest
from rdtops.errors import ConfigError
from rdtops.ssh.inventory.hosts_schema import HostsFile
from rdtops.ssh.inventory.layers import Places


def resolved(places: Places, tables: HostsFile) -> dict[str, TrainConfig]:
    """Return every preset. Raise ConfigError with file and line of a mistake, also in `set` of a host."""
    for name, host in tables.hosts.items():
        _refuse(places, ("hosts", name, "set"), host.set or {})
    found = {name: train_config.preset(name) for name in train_config.PRESETS}
    for name in tables.presets:
        _preset(name, places, tables.presets, found, ())
    for name, host in tables.hosts.items():
        if host.preset and host.preset not in found:
            raise ConfigError(f"{places.of('hosts', name, 'preset')}: hosts.{name}.preset: there is no preset "
                              f"{host.preset!r}{nearest(host.preset, found)}; presets: {', '.join(found)}")
    return found


def _preset(name: str, places: Places, tables: Mapping[str, Mapping[str, Any]], found: dict[str, TrainConfig],
            inside: tuple[str, ...]) -> TrainConfig:
    """Return a preset, and add it and its bases to `found`."""
    place = places.of("presets", name)
    if name in train_config.PRESETS and name in tables:
        raise ConfigError(f"{place}: presets.{name}: this is the name of a bundled preset; choose another one, with "
                          f"base = \"{name}\"")
    if name in inside:
        raise ConfigError(f"{place}: presets.{name}: it inherits from itself: {' -> '.join((*inside, name))}")
    if name in found:
        return found[name]
    base, settings = tables[name].get("base"), {k: v for k, v in tables[name].items() if k != "base"}
    known = [*train_config.PRESETS, *tables]
    if not isinstance(base, str) or base not in known:
        what = "is missing" if base is None else f"there is no preset {base!r}{nearest(str(base), known)}"
        raise ConfigError(f"{places.of('presets', name, 'base')}: presets.{name}.base: {what}; presets: "
                          f"{', '.join(k for k in known if k != name)}")
    _refuse(places, ("presets", name), settings)
    below = _preset(base, places, tables, found, (*inside, name))
    try:
        found[name] = train_config.with_settings(replace(below, preset=name), settings)
    except ConfigError as error:
        raise ConfigError(f"{place}: presets.{name}: {error.message}") from error
    return found[name]


def _refuse(places: Places, table: tuple[str, ...], settings: Mapping[str, Any]) -> None:
    wrong = [f"{places.of(*table, key)}: {'.'.join((*table, key))}: {problem}" for key, value in settings.items()
             if (problem := train_config.setting_problem(key, value))]
    if wrong:
        raise ConfigError("\n".join(wrong), remedy="docs/hosts.md   # has every setting")


