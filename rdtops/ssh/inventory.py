"""Inventory: hosts.toml, read and checked. Every mistake in it is reported with its line."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rdtops.contract.config import nearest
from rdtops.contract.recovery import Recovery
from rdtops.errors import ConfigError, UsageError
from rdtops.ssh.hosts import Environment, Hop, Host, SshOptions
from rdtops.ssh.hosts_schema import EnvironmentTable, HopTable, HostsFile, HostTable, RecoveryTable
from rdtops.ssh.login import ssh_config

DEFAULT_FILE = "hosts.toml"


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
    """hosts.toml, with routes resolved and paths absolute."""

    path: Path
    hosts: Mapping[str, Host]
    assets: Mapping[str, Path]
    required_plugins: tuple[str, ...] = ()
    ssh_config: Path
    default: str = ""  # the host with `default = true`

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
    def default_host(self) -> Host:
        if self.default:
            return self.hosts[self.default]
        names = ", ".join(self.hosts) or "none yet"
        raise UsageError(f"no --host, and no host of {self.path.name} has `default = true`; hosts: {names}",
                         remedy=f"add --host {next(iter(self.hosts), 'NAME')}")

    def asset(self, name: str) -> Path | None:
        """Return the folder of an asset on this laptop; None when hosts.toml does not name one."""
        return self.assets.get(name)


def load(path: str | Path | None = None) -> Inventory:
    """Read hosts.toml (RDTOPS_HOSTS names another). Raise ConfigError that lists every mistake with its line."""
    file = Path(path or os.environ.get("RDTOPS_HOSTS", "") or DEFAULT_FILE).expanduser().absolute()
    text, content = _read(file)
    files = [file]
    if isinstance(included := content.get("include"), str):
        files += filter(Path.exists, [file.parent / Path(included).expanduser()])
    for other in files[1:]:
        content = _overlaid(content, _read(other)[1])
    try:
        tables = HostsFile.model_validate(content)
    except ValidationError as error:
        remedy = f"edit {' or '.join(map(str, files))}"
        raise ConfigError(_explained(file, text, error), remedy=remedy) from None
    return _resolved(file, text, tables)


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}",
                          remedy="cd to the project, or set RDTOPS_HOSTS=/path/to/hosts.toml") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error}") from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _overlaid(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return our tables with those of an included file over them, key by key.

    >>> _overlaid({"hosts": {"lab": {"port": 22023, "gpus": 8}}}, {"hosts": {"lab": {"port": 25000}}})
    {'hosts': {'lab': {'port': 25000, 'gpus': 8}}}
    """
    both = {key: _overlaid(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()
            if isinstance(ours[key], dict) and isinstance(theirs[key], dict)}
    return {**ours, **theirs, **both}


def _resolved(file: Path, text: str, tables: HostsFile) -> Inventory:
    base = file.parent
    jumps = {name: functools.cache(functools.partial(_hop, name, table, base)) for name, table in tables.jumps.items()}
    for name, table in tables.hosts.items():
        unknown = [j for j in table.jumps if j not in jumps]
        if unknown:
            raise ConfigError(f"{file}:{_line_of(text, ('hosts', name, 'jumps'))}: hosts.{name}.jumps: there is no "
                              f"[jumps.{unknown[0]}]{nearest(unknown[0], jumps)}; jumps: {', '.join(jumps) or 'none'}")
    defaults = [name for name, table in tables.hosts.items() if table.default]
    if len(defaults) > 1:
        raise ConfigError(f"{file}: only one host can have `default = true`; it is set for {', '.join(defaults)}")
    config = ssh_config.default_file()
    hosts = LazyHosts({name: functools.partial(_host, name, table, jumps, base, config)
                       for name, table in tables.hosts.items()})
    assets = {name: base / Path(folder).expanduser() for name, folder in tables.assets.items()}
    return Inventory(path=file, hosts=hosts, assets=assets, required_plugins=tables.required_plugins,
                     ssh_config=config, default="".join(defaults))


def _hop(name: str, table: HopTable, base: Path) -> Hop:
    hop = Hop(**_local_paths({**_given(table), "name": name}, base))
    return replace(hop, ssh=_own_options(hop))


def _host(name: str, table: HostTable, jumps: Mapping[str, Callable[[], Hop]], base: Path,
          config: Path) -> Host:
    values = _local_paths({**_given(table), "name": name}, base)
    values["jumps"] = tuple(jumps[j]() for j in table.jumps)
    alias = values.pop("ssh_alias", None)
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
    return given


def _local_paths(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Resolve paths of this laptop against the folder of hosts.toml; leave paths on the host as they are."""
    for key in ("identity_file", "known_hosts"):
        if values.get(key):
            values[key] = str(base / Path(values[key]).expanduser())
    return values


# --- messages for mistakes ---

def _explained(file: Path, text: str, error: ValidationError) -> str:
    lines = []
    for mistake in error.errors():
        keys = tuple(str(part) for part in mistake["loc"])
        what = _what_is_wrong(keys, mistake["type"], mistake["msg"])
        lines.append(f"{file}:{_line_of(text, keys)}: {'.'.join(keys) or 'the file'}: {what}")
    return "\n".join(lines)


def _what_is_wrong(keys: tuple[str, ...], kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        allowed = _allowed_beside(keys)
        return f"unknown key{nearest(keys[-1], allowed)}; allowed: {', '.join(allowed)}"
    if kind == "missing":
        return "is missing"
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


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line of a key of a TOML file, or of the table it is missing from, as well as a search can find it."""
    best, depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            path = table = _parts(header[1])
        elif pair := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            path = (*table, *_parts(pair[1]))
        else:
            continue
        differs = (i for i, (a, b) in enumerate(zip(path, keys, strict=False)) if a != b)
        common = next(differs, min(len(path), len(keys)))
        if common > depth:
            best, depth = number, common
    return best


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
