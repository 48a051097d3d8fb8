"""Session: what the tasks of one command line share: the inventory, the plugins, and for each host one connection and
the findings of a `check`, which a following `train` uses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rdtops.checks import Report
from rdtops.contract.config import TrainConfig
from rdtops.contract.run import RunSpec
from rdtops.delivery import plan, releases, snapshot
from rdtops.delivery.build_steps import SHORT, BuildStep
from rdtops.delivery.plan import Asset, Request
from rdtops.delivery.releases import RolledBack
from rdtops.delivery.snapshot import Snapshot
from rdtops.errors import HostKeyError, Unreachable, UsageError
from rdtops.lab.site import HOSTS as LAB_HOSTS
from rdtops.plugging import registry
from rdtops.plugging.registry import Registry
from rdtops.runs import records
from rdtops.runs.overview import RunView
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.ssh.inventory import Inventory
from rdtops.ssh.login import known_hosts
from rdtops.ssh.transport import Ask
from rdtops.transfer.transfer import TransferProgress
from rdtops.workflows import training

Progress = TransferProgress | BuildStep

BEAT_S = 5.0  # who waits is told so often for how long


@dataclass(frozen=True)
class Prepared:
    """A request resolved for one host."""

    spec: RunSpec
    assets: tuple[Asset, ...]
    resumes: bool = False

    @property
    def local_assets(self) -> Mapping[str, Path]:
        return plan.local_assets(self.assets)


class Session:
    """The state of one command line. `say` gets messages, `progress` the bytes of transfers and the steps of a build,
    `ask` the questions of a bastion that needs a code."""

    def __init__(self, say: Callable[[str], None], progress: Callable[[str, str, Progress], None],
                 ask: Ask | None = None) -> None:
        self.say = say
        self.progress = progress
        self.ask = ask
        self._lock = threading.Lock()  # several hosts are handled in parallel
        self._inventory: Inventory | None = None
        self._registry: Registry | None = None
        self._snapshot: Snapshot | None = None
        self._hosts: dict[str, HostSession] = {}

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
                self._registry = registry.loaded()
                self._registry.require(required)
            return self._registry

    @property
    def snapshot(self) -> Snapshot:
        with self._lock:
            self._snapshot = self._snapshot or snapshot.take()
            return self._snapshot

    def all_hosts(self, *, examples: bool = False) -> list[HostSession]:
        """Return every host, examples only where they are wanted. Raises UsageError when there is none."""
        names = list(self.inventory.hosts) if examples else self.inventory.own_hosts
        return [self.on(self.inventory.hosts[name]) for name in names] or [self.on(self.inventory.default_host)]

    def hosts(self, names: str, *, of_runs: bool = False) -> list[HostSession]:
        """Return the hosts of `--host a,b`. When empty: the default host, else, for tasks about runs, the host of this
        laptop's last launch: `inv fetch-results` after `inv train --host a800` means a800."""
        wanted = [n.strip() for n in names.split(",") if n.strip()]
        if wanted:
            return [self.on(self._host(n)) for n in dict.fromkeys(wanted)]
        last = records.last_launch() if of_runs else ""
        if last in self.inventory.hosts and not self.inventory.default:
            self.say(f"no --host given: using {last}, the host of the last launch")
            return [self.on(self.inventory.host(last))]
        return [self.on(self.inventory.default_host)]

    def _host(self, name: str) -> Host:
        """Return a host by its name. Raise UsageError; the hosts of the lab are there while it is up."""
        try:
            return self.inventory.host(name)
        except UsageError as error:
            if name in LAB_HOSTS and name not in self.inventory.hosts:
                error.remedy = "inv lab.up   # starts the lab, with its hosts"
            raise

    def on(self, host: Host) -> HostSession:
        """Return this session on `host`, the same for every task."""
        with self._lock:
            return self._hosts.setdefault(host.name, HostSession(self, host))

    @property
    def interrupted(self) -> list[str]:
        """What an interrupt now leaves behind, for each host."""
        return [f"{host.host.name}: {host.interrupted}" for host in self._hosts.values()]

    def close(self) -> None:
        for host_session in self._hosts.values():
            host_session.close()


class HostSession:
    """A session bound to one host: its connection, the plugins, and the messages to the user."""

    def __init__(self, session: Session, host: Host) -> None:
        self.host = host
        self.ask = session.ask
        self._session = session
        self._connection = Connection(host, session.ask)
        self.interrupted = "nothing was changed on the host"  # what an interrupt here leaves behind, for the user
        self._rolled_back: RolledBack | None = None
        self._knows_rollback = False
        self._reports: dict[tuple[str, ...], Report] = {}  # by configuration, snapshot and the run that is resumed

    @property
    def registry(self) -> Registry:
        return self._session.registry

    @property
    def snapshot(self) -> Snapshot:
        return self._session.snapshot

    def say(self, text: str) -> None:
        """Show a message."""
        self._session.say(text)

    def progress(self, what: str, done: TransferProgress) -> None:
        """Show the progress of a transfer."""
        self._session.progress(self.host.name, what, done)

    def step(self, step: BuildStep) -> None:
        """Show what the host does while it makes its environment."""
        self._session.progress(self.host.name, "environment", step)

    @contextmanager
    def waiting(self, words: str) -> Iterator[None]:
        """Show what is being done, and how long that has taken, until the body ends."""
        begun_s, over = time.monotonic(), threading.Event()

        def tell() -> None:
            step = BuildStep(SHORT, words, time.monotonic() - begun_s)
            self._session.progress(self.host.name, "training", step)

        def beat() -> None:
            while not over.wait(BEAT_S):
                tell()

        tell()
        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def connect(self) -> Connection:
        """Return the open connection. Raises a HostError that names the failing hop."""
        if not self._connection.alive:
            self.say(f"connecting to {self.host.name}: {self.host.route_words}")
            self._say_notes()
        try:
            return self._connection.open()
        except Unreachable as error:
            if self._is_of_a_lab:
                error.remedy = "inv lab.up   # if this is the lab; inv lab.status shows its servers"
            raise
        except HostKeyError as error:
            if self._is_of_a_lab:  # its lab wrote that file: this is another's server
                error.remedy = "inv lab.up   # another program has the port; this starts the lab on ports of its own"
            raise

    @property
    def _is_of_a_lab(self) -> bool:
        return Path(self.host.known_hosts).parent.name == ".lab"

    def _say_notes(self) -> None:
        """Say once what is skipped in known_hosts, and what a relay does."""
        if self._connection.was_open:
            return
        if len(self.host.files) > 1:
            self.say(f"note: {self.host.name} is that of {self.host.files[0]}, not that of {self.host.files[-1]}")
        for note in known_hosts.notes_of(self.host.route):
            self.say(f"note: {note}")
        for hop in self.host.route:
            if hop.relay:
                self.say(f"relay: a program on {hop.name} carries the bytes to the next hop (relay = true)")

    def prepare(self, request: Request, *, of_this_tree: bool = False) -> Prepared:
        """Resolve the request: with the code of this tree, or, unless `of_this_tree`, the release that the host was
        rolled back to."""
        config = request.config_for(self.host, self._session.inventory)  # first: an invalid --set needs no connection
        return self._prepared(config, of_this_tree=of_this_tree)

    def prepare_resume(self, run: RunView, request: Request) -> Prepared:
        """Resolve the resume of a run: its own names and values with `--set` on top, its folders found as for a new
        training, today's code. Raise RunError when it cannot be resumed, or is running with other settings."""
        if request.preset and run.spec and request.preset != run.spec.train.preset:
            self.say(f"--preset {request.preset} is ignored: {run.run_id} goes on with its own settings, of the preset "
                     f"{run.spec.train.preset}")
        prepared = self._prepared(training.resumed_config(run, request))
        return replace(prepared, spec=training.resumed_spec(run, prepared.spec), resumes=True)

    def _prepared(self, config: TrainConfig, *, of_this_tree: bool = False) -> Prepared:
        connection = self.connect()
        assets = plan.assets_of(self._session.inventory, connection, config)
        spec = plan.spec_of(connection, config, assets, self.snapshot)
        rolled_back = None if of_this_tree else self._rollback(connection)
        if rolled_back:
            self.say(rolled_back.words)
            spec = replace(spec, release=plan.release_folder(spec.workspace, rolled_back.to), snapshot=rolled_back.to)
        return Prepared(spec, assets)

    def _rollback(self, connection: Connection) -> RolledBack | None:
        """Return the rollback in force, asked once: within this command line only its own deploy changes it."""
        if not self._knows_rollback:
            self._rolled_back, self._knows_rollback = releases.rolled_back(connection), True
        return self._rolled_back

    def end_rollback(self) -> None:
        """Record that a deploy ended the rollback."""
        self._rolled_back, self._knows_rollback = None, True

    def report(self, prepared: Prepared, *, again: bool, fresh: bool = False) -> Report:
        """Check the host, or return the findings of this command line unless `again`. `fresh` is that of
        training.check."""
        spec = prepared.spec
        key = (spec.train.digest, spec.train.accept_changed, spec.snapshot, spec.run_id if prepared.resumes else "")
        if again or key not in self._reports:
            connection, registry = self.connect(), self.registry
            with self.waiting("checking"):
                self._reports[key] = training.check(connection, registry, spec, prepared.local_assets,
                                                    resumes=prepared.resumes, fresh=fresh)
        return self._reports[key]

    def close(self) -> None:
        self._connection.close()
