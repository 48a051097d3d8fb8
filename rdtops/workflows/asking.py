"""Asking: hosts, data, weights and plugins, and one step of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rdtops.delivery.plan import Request, local_copy
from rdtops.errors import ConfigError, HostError, RemoteError, UsageError
from rdtops.plugging import authoring, catalog, discovery, registry
from rdtops.runs import inquiries, overview
from rdtops.ssh import trust
from rdtops.ssh.trust import SeenKey
from rdtops.views.host_output import HostKeyOutput, HostOutput
from rdtops.views.inquiry_output import NormfitOutput, ReplayOutput, StatsOutput
from rdtops.views.plugin_output import NewPluginOutput, PluginOutput
from rdtops.workflows.session import HostSession, Session


def hosts(session: HostSession, *, ping: bool) -> Iterator[HostOutput]:
    if not ping:
        yield HostOutput(session.host, problem=session.host.problem)
        return
    try:
        connection = session.connect()
        connection.run_shell(":")  # a menu bastion lets us in and runs nothing
        yield HostOutput(connection.host, connection.ping())
    except (HostError, RemoteError, ConfigError) as error:
        yield HostOutput(session.host, None, f"{error.message}\n{error.remedy}")


def trust_host(session: HostSession, *, accept: Callable[[SeenKey], bool]) -> Iterator[HostKeyOutput]:
    yield from map(HostKeyOutput, trust.trust(session.host, accept, session.ask))


def replay(session: HostSession, *, run_id: str, step: int, checkpoint: str, device: str) -> Iterator[ReplayOutput]:
    connection = session.connect()
    run = overview.find(connection, run_id)
    session.say(f"replaying step {step} of {run.run_id}")
    yield ReplayOutput(inquiries.replay(connection, run, step, checkpoint, device))


def normfit(session: HostSession, *, request: Request, samples: int) -> Iterator[NormfitOutput]:
    prepared = session.prepare(request)
    session.say(f"computing the loss of {samples} samples under each norm")
    yield NormfitOutput(inquiries.normfit(session.connect(), prepared.spec, samples))


def stats(session: HostSession, *, request: Request, recompute: bool) -> Iterator[StatsOutput]:
    prepared = session.prepare(request)
    yield StatsOutput(inquiries.stats(session.connect(), prepared.spec, recompute))


def stats_here(session: Session, *, request: Request, recompute: bool) -> Iterator[StatsOutput]:
    """Show the statistics of this laptop's copy of the dataset, which a deploy sends."""
    config = request.config_here(session.inventory)
    named = session.inventory.asset(config.dataset)
    folder, _ = local_copy(session.inventory, config.dataset)
    if folder is None or not folder.is_dir():
        raise UsageError(f"this laptop has no dataset {config.dataset}" + (f" at {named}" if named else ""),
                         remedy=f"name its folder under [assets] of hosts.toml, or: inv stats --host HOST "
                                f"--preset {config.preset}")
    yield StatsOutput(inquiries.stats_here(folder, config, recompute))


def plugins(session: Session) -> Iterator[PluginOutput]:
    """List the plugins, even when hosts.toml cannot be read or requires a missing plugin: then the list is needed."""
    try:
        known = session.inventory
        hosts, required = tuple(known.hosts[name] for name in known.own_hosts), known.required_plugins
    except ConfigError as error:
        session.say(error.message)
        hosts, required = (), ()
    yield from map(PluginOutput, catalog.rows(registry.load(), hosts, required))


def new_plugin(name: str, *, package: bool) -> Iterator[NewPluginOutput]:
    folder = Path.cwd() if package else discovery.user_folder()
    yield NewPluginOutput(authoring.write(name, folder, package=package))
