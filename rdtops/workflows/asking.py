"""Hosts, data, weights and plugins: what there is to know without a run, or about one step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rdtops.delivery.plan import Wish
from rdtops.errors import ConfigError, HostError, UsageError
from rdtops.plugging import authoring, catalog, discovery, registry
from rdtops.plugging.authoring import Written
from rdtops.plugging.catalog import PluginRow
from rdtops.runs import inquiries, overview
from rdtops.ssh import trust
from rdtops.ssh.hosts import Host
from rdtops.ssh.trust import SeenKey
from rdtops.views.views import HostRow
from rdtops.workflows.session import Session


def hosts(session: Session, host: Host, *, ping: bool) -> Iterator[HostRow]:
    if not ping:
        yield HostRow(host)
        return
    try:
        yield HostRow(host, session.connection(host).ping())
    except HostError as error:
        yield HostRow(host, None, f"{error.message}\n{error.remedy}")


def trust_host(session: Session, host: Host, *, accept: Callable[[SeenKey], bool]) -> Iterator[SeenKey]:
    yield from trust.trust(host, accept, session.ask)


def replay(session: Session, host: Host, *, run_id: str, step: int, checkpoint: str,
           device: str) -> Iterator[inquiries.Replayed]:
    connection = session.connection(host)
    run = overview.find(connection, run_id)
    session.say(f"replaying step {step} of {run.run_id}")
    yield inquiries.replay(connection, run, step, checkpoint, device)


def normfit(session: Session, host: Host, *, wish: Wish, samples: int) -> Iterator[inquiries.NormFitted]:
    prepared = session.prepared(host, wish)
    session.say(f"asking {samples} samples under each norm")
    yield inquiries.normfit(session.connection(host), prepared.spec, samples)


def stats(session: Session, host: Host, *, wish: Wish, recompute: bool) -> Iterator[inquiries.Stats]:
    prepared = session.prepared(host, wish)
    yield inquiries.stats(session.connection(host), prepared.spec, recompute)


def stats_here(session: Session, *, wish: Wish, recompute: bool) -> Iterator[inquiries.Stats]:
    """Of this laptop's copy of the dataset, which is what a deploy sends."""
    config = wish.config_here(session.inventory)
    folder = session.inventory.asset(config.dataset)
    if folder is None or not folder.is_dir():
        raise UsageError(f"this laptop has no dataset {config.dataset}" + (f" at {folder}" if folder else ""),
                         remedy=f"name its folder under [assets] of hosts.toml, or: inv stats --host HOST "
                                f"--preset {config.preset}")
    yield inquiries.stats_here(folder, config, recompute)


def plugins(session: Session) -> Iterator[PluginRow]:
    """Also where hosts.toml cannot be read, or requires a plugin that is not there: this is where one looks then."""
    try:
        hosts, required = tuple(session.inventory.hosts.values()), session.inventory.required_plugins
    except ConfigError as error:
        session.say(error.message)
        hosts, required = (), ()
    yield from catalog.rows(registry.load(), hosts, required)


def new_plugin(_: Session, *, name: str, package: bool) -> Iterator[Written]:
    yield authoring.write(name, Path.cwd() if package else discovery.user_folder(), package=package)
