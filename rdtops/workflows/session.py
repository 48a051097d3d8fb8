"""Session: what one command line shares over its tasks: the inventory, the plugins, one connection a host, and the
findings of a `check` that a `train` behind it need not ask for again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rdtops.checks import Report
from rdtops.contract.run import RunSpec
from rdtops.delivery import plan, releases, snapshot
from rdtops.delivery.plan import Asset, Wish
from rdtops.delivery.releases import RolledBack
from rdtops.delivery.snapshot import Snapshot
from rdtops.errors import Unreachable
from rdtops.plugging import registry
from rdtops.plugging.registry import Registry
from rdtops.runs import records
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.ssh.inventory import Inventory
from rdtops.ssh.transport import Ask
from rdtops.transfer.transfer import Progress
from rdtops.workflows import training


@dataclass(frozen=True)
class Prepared:
    """A wish, made concrete for one host."""

    spec: RunSpec
    assets: tuple[Asset, ...]

    @property
    def local_assets(self) -> Mapping[str, Path]:
        return plan.local_assets(self.assets)


class Session:
    """`say` gets lines for people while the work goes on, `progress` the bytes of transfers, `ask` the question of a
    bastion that wants a code."""

    def __init__(self, say: Callable[[str], None], progress: Callable[[str, str, Progress], None],
                 ask: Ask | None = None) -> None:
        self.say = say
        self.ask = ask
        self._progress = progress
        self._lock = threading.Lock()  # several hosts are worked on side by side
        self._inventory: Inventory | None = None
        self._registry: Registry | None = None
        self._snapshot: Snapshot | None = None
        self._connections: dict[str, Connection] = {}
        self._rollbacks: dict[str, RolledBack | None] = {}
        self._reports: dict[tuple[str, str, str], Report] = {}

    @property
    def inventory(self) -> Inventory:
        with self._lock:
            self._inventory = self._inventory or inventory.load()
            return self._inventory

    @property
    def registry(self) -> Registry:
        required = self.inventory.required_plugins
        with self._lock:
            if self._registry is None:
                self._registry = registry.load()
                self._registry.require(required)
            return self._registry

    @property
    def snapshot(self) -> Snapshot:
        with self._lock:
            self._snapshot = self._snapshot or snapshot.take()
            return self._snapshot

    def hosts(self, names: str, *, of_runs: bool = False) -> list[Host]:
        """`--host a,b` as hosts. When it is empty: the default host, else, for tasks that look at runs, the host on
        which this laptop launched last: `inv fetch-results` after `inv train --host a800` means a800."""
        wanted = [n.strip() for n in names.split(",") if n.strip()]
        if wanted:
            return [self.inventory.host(n) for n in dict.fromkeys(wanted)]
        last = records.last_launch() if of_runs else ""
        if last in self.inventory.hosts and not any(h.default for h in self.inventory.hosts.values()):
            self.say(f"no --host: {last}, where this laptop launched last")
            return [self.inventory.host(last)]
        return [self.inventory.default_host]

    def connection(self, host: Host) -> Connection:
        with self._lock:
            known = self._connections.setdefault(host.name, Connection(host, self.ask))
        if not known.alive:
            self.say(f"connecting to {host.name}: {host.route_words}")
        try:
            return known.open()
        except Unreachable as error:
            if host.route[0].address.startswith("127."):
                error.remedy = "inv lab.up   # if this is the lab; inv lab.status shows what of it is up"
            raise

    def prepared(self, host: Host, wish: Wish, *, of_this_tree: bool = False) -> Prepared:
        """With the code of this tree, or, unless `of_this_tree`, of the release that the host was rolled back to."""
        config = wish.config_for(host)  # first: a wrong --set needs no connection
        connection = self.connection(host)
        assets = plan.assets_of(self.inventory, connection, config)
        spec = plan.spec_of(connection, config, assets, self.snapshot)
        rolled_back = None if of_this_tree else self._rolled_back(connection)
        if rolled_back:
            self.say(rolled_back.words)
            spec = replace(spec, release=plan.release_folder(spec.workspace, rolled_back.to), snapshot=rolled_back.to)
        return Prepared(spec, assets)

    def _rolled_back(self, connection: Connection) -> RolledBack | None:
        """Asked once: nobody but a deploy of this command line changes it in the middle of it."""
        name = connection.host.name
        if name not in self._rollbacks:
            self._rollbacks[name] = releases.rolled_back(connection)
        return self._rollbacks[name]

    def deployed(self, host: Host) -> None:
        """A deploy ends a rollback."""
        self._rollbacks[host.name] = None

    def report(self, host: Host, prepared: Prepared, *, again: bool) -> Report:
        """The findings about a host; those of this command line when there are some and `again` is not wanted."""
        key = (host.name, prepared.spec.train.digest, prepared.spec.snapshot)
        if again or key not in self._reports:
            self._reports[key] = training.check(self.connection(host), self.registry, prepared.spec,
                                                prepared.local_assets)
        return self._reports[key]

    def progress(self, host: Host) -> Callable[[str, Progress], None]:
        return lambda what, done: self._progress(host.name, what, done)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
