"""Inventory: hosts.toml, read and checked. Every mistake in it is reported with its line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rdtops.contract.config import TrainConfig, nearest
from rdtops.contract.recovery import Recovery
from rdtops.errors import ConfigError, UsageError
from rdtops.ssh.hosts import Environment, Hop, Host, SshOptions
from rdtops.ssh.inventory import layers, own_presets
from rdtops.ssh.inventory.hosts_schema import EnvironmentTable, HopTable, HostsFile, HostTable, RecoveryTable
from rdtops.ssh.inventory.layers import Places
from rdtops.ssh.login import ssh_config
from rdtops.user_folders import config_folder


class LazyHosts(Mapping[str, Host]):
    """Hosts by name. The ssh_config of a host is read when that host is meant; one that gives no route is a host with a
    problem, so that no host stands in the way of the others."""

    def __init__(self, makers: Mapping[str, Callable[[], Host]]) -> None:
        self._makers = makers
        self._made: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The hosts of the project and the user's own, with routes resolved and paths absolute."""

    path: Path  # the file to edit
    hosts: Mapping[str, Host]
    assets: Mapping[str, Path]
    presets: Mapping[str, TrainConfig]  # bundled ones and [presets.NAME]
    required_plugins: tuple[str, ...] = ()
    ssh_config: Path
    default: str = ""  # the host with `default = true`
    examples: frozenset[str] = frozenset()  # hosts that are asked only when they are named

    def host(self, name: str) -> Host:
        """Return the host of that name: from hosts.toml, else an alias of ssh_config. Raise UsageError that names the
        nearest."""
        if name in self.hosts:
            return self.hosts[name]
        if ssh_config.knows(name, self.ssh_config):
            return ssh_config.host(name, {}, self.ssh_config)
        known = [*self.hosts, *ssh_config.aliases(self.ssh_config)]
        raise UsageError(f"there is no host {name!r} in {self.path.name}{nearest(name, known)}",
                         remedy="inv hosts   # hosts: " + ", ".join(self.hosts))

    @property
    def own_hosts(self) -> list[str]:
        """Names of the hosts that are no examples."""
        return [name for name in self.hosts if name not in self.examples]

    @property
    def default_host(self) -> Host:
        if self.default:
            return self.hosts[self.default]
        if not self.own_hosts:
            raise UsageError(f"there is no host yet in {self.path.name}, but for examples",
                             remedy=f"inv lab.up   # a lab on this machine; your own belong into "
                                    f"{config_folder() / layers.FILE_NAME}: docs/hosts.md")
        raise UsageError(f"no --host, and no host of {self.path.name} has `default = true`; hosts: "
                         f"{', '.join(self.own_hosts)}", remedy=f"add --host {self.own_hosts[0]}")

    def asset(self, name: str) -> Path | None:
        """Return the folder of an asset on this laptop; None when hosts.toml does not name one."""
        return self.assets.get(name)

    def preset(self, name: str) -> TrainConfig:
        """Return a preset. Raise ConfigError that names the nearest."""
        if name in self.presets:
            return self.presets[name]
        raise ConfigError(f"there is no preset {name!r}{nearest(name, self.presets)}; presets: "
                          f"{', '.join(self.presets)}")


def load(path: str | Path | None = None) -> Inventory:
    """Read that file alone; by default the project's hosts.toml with the user's own over it.

    Raise ConfigError that lists every mistake with its file and line.
    """
    files = layers.of(Path(path).expanduser().absolute()) if path else layers.found()
    places = Places(files)
    try:
        tables = HostsFile.model_validate(layers.merged(files))
    except ValidationError as error:
        raise _refused(places, error) from None
    return _resolved(places, tables)


def _resolved(places: Places, tables: HostsFile) -> Inventory:
    jumps = {name: functools.cache(functools.partial(_hop, name, table)) for name, table in tables.jumps.items()}
    for name, table in tables.hosts.items():
        unknown = [j for j in table.jumps if j not in jumps]
        if unknown:
            raise ConfigError(f"{places.of('hosts', name, 'jumps')}: hosts.{name}.jumps: there is no "
                              f"[jumps.{unknown[0]}]{nearest(unknown[0], jumps)}; jumps: {', '.join(jumps) or 'none'}")
    config = ssh_config.default_file()
    hosts = LazyHosts({name: functools.partial(_host, name, table, jumps, config, places)
                       for name, table in tables.hosts.items()})
    return Inventory(
        path=places.to_edit, hosts=hosts, assets={name: Path(folder) for name, folder in tables.assets.items()},
        presets=own_presets.resolved(places, tables), required_plugins=tables.required_plugins, ssh_config=config,
        default=_default(places, tables),
        examples=frozenset(name for name, table in tables.hosts.items() if table.example))


def _default(places: Places, tables: HostsFile) -> str:
    """Return the name of the default host: one of the user's own file goes before that of the project."""
    by_file: dict[str, list[str]] = {}
    for name, table in tables.hosts.items():
        if table.default:
            by_file.setdefault(places.defining("hosts", name)[0], []).append(name)
    file, names = next(((f, by_file[f]) for f in reversed(places.files) if f in by_file), ("", []))
    if len(names) > 1:
        raise ConfigError(f"{file}: only one host can have `default = true`; it is set for {', '.join(names)}")
    return "".join(names)


def _hop(name: str, table: HopTable) -> Hop:
    hop = Hop(**{**_given(table), "name": name})
    return replace(hop, ssh=_own_options(hop))


def _host(name: str, table: HostTable, jumps: Mapping[str, Callable[[], Hop]], config: Path, places: Places) -> Host:
    values = {**_given(table), "name": name, "files": places.defining("hosts", name)}
    values["jumps"] = tuple(jumps[j]() for j in table.jumps)
    alias = values.pop("ssh_alias", None)
    if table.address is None and alias is None:
        if not ssh_config.knows(name, config):
            problem = f"{places.of('hosts', name)}: hosts.{name}: address is missing, and {config} has no Host {name}"
            return Host(**{**values, "address": name, "problem": problem})
        alias = name
    if not alias:
        host = Host(**values)
        return replace(host, ssh=_own_options(host))
    try:
        return ssh_config.host(alias, values, config)
    except ConfigError as error:
        return Host(**{"address": alias, **values, "problem": error.message})


def _own_options(hop: Hop) -> SshOptions:
    """Return the options of a hop of hosts.toml: its identity_file is offered, and no other key."""
    return SshOptions(identities_only=bool(hop.identity_file), only_openssh=ssh_config.obstacle(hop))


def _given(table: BaseModel) -> dict[str, Any]:
    given = {key: getattr(table, key) for key in table.model_fields_set}
    if given.get("address"):
        given["address"] = given["address"].strip("[]")  # of IPv6
    if isinstance(given.get("environment"), EnvironmentTable):
        given["environment"] = Environment(**_given(given["environment"]))
    if isinstance(given.get("recovery"), RecoveryTable):
        given["recovery"] = Recovery(**_given(given["recovery"]))
    if "set" in given:
        given["settings"] = given.pop("set")
    return given


# --- messages for mistakes ---

def _refused(places: Places, error: ValidationError) -> ConfigError:
    """Return an error that lists every mistake with its place, and the files to edit."""
    found = [(tuple(str(part) for part in mistake["loc"]), mistake) for mistake in error.errors()]
    lines = [f"{places.of(*keys)}: {'.'.join(keys) or 'the file'}: {_what_is_wrong(keys, m['type'], m['msg'])}"
             for keys, m in found]
    files = dict.fromkeys(places.of(*keys).rpartition(":")[0] for keys, _ in found)
    return ConfigError("\n".join(lines), remedy=f"edit {' and '.join(files)}")


_KINDS = {"missing": "is missing", "tuple_type": "must be a list: [\"...\"]", "dict_type": "must be a table: { ... }",
          "model_type": "must be a table: { ... }", "model_attributes_type": "must be a table: { ... }",
          "dataclass_type": "must be a table: { ... }", "string_type": "must be a text in quotes",
          "bool_type": "must be true or false", "bool_parsing": "must be true or false",
          "int_type": "must be a whole number", "int_parsing": "must be a whole number",
          "int_from_float": "must be a whole number", "float_type": "must be a number",
          "float_parsing": "must be a number"}


def _what_is_wrong(keys: tuple[str, ...], kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        allowed = _allowed_beside(keys)
        return f"unknown key{nearest(keys[-1], allowed)}; allowed: {', '.join(allowed)}"
    if kind in _KINDS:
        return _KINDS[kind]
    return message.removeprefix("Value error, ")[:1].lower() + message.removeprefix("Value error, ")[1:]


def _allowed_beside(keys: tuple[str, ...]) -> list[str]:
    """Return the keys that are allowed in the table that `keys` points into."""
    tables: dict[str, type[BaseModel]] = {"jumps": HopTable, "hosts": HostTable}
    table: type[BaseModel] = HostsFile
    if len(keys) >= 3 and keys[0] in tables:
        table = tables[keys[0]]
        if len(keys) >= 4 and keys[2] in table.model_fields:
            annotation = table.model_fields[keys[2]].annotation
            table = next((t for t in (annotation, *get_args(annotation))
                          if isinstance(t, type) and issubclass(t, BaseModel)), table)
    return [name for name in table.model_fields if name != "name"]
