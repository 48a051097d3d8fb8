"""The GPUs of a host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from rdtops.contract.run import RunState
from rdtops.errors import RunError, UsageError
from rdtops.runs import jobs, launchers, overview
from rdtops.runs.poller import LOST, Backoff, RunPoller
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.views.views import Gpus, GpuSample
from rdtops.workflows.session import Session

GPU_QUERY = ("index", "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")


def gpu(session: Session, host: Host, *, again_every_s: float) -> Iterator[Gpus | GpuSample]:
    connection = session.connection(host)
    if again_every_s and not launchers.traits(host).is_local:
        raise UsageError(f"{host.name} is a login node: --watch looks at its own GPUs only",
                         remedy=f"inv gpu --host {host.name}   # those of the newest run's nodes, now")
    if again_every_s:
        yield from _gpus_again(connection, again_every_s)
        return
    query = Command("nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader,nounits")
    table = connection.run(_where_it_trains(connection, Command("nvidia-smi")), timeout_s=60)
    lines = connection.run(_where_it_trains(connection, query), timeout_s=60).out.strip().splitlines()
    rows = tuple(dict(zip(GPU_QUERY, (v.strip() for v in line.split(",")), strict=False)) for line in lines)
    yield Gpus(host.name, table.out, rows)


def _where_it_trains(connection: Connection, command: Command) -> Command:
    """On a cluster: on the nodes of the newest run."""
    if launchers.traits(connection.host).is_local:
        return command
    run = overview.find(connection)
    if run.state is not RunState.RUNNING:
        raise RunError(f"{run.host}: {run.run_id} is {run.state.value}, so it has no nodes to look at",
                       remedy=f"inv status --host {run.host}")
    job = jobs.training_job(overview.paths(connection, run))
    return launchers.launcher(connection.host).inside(connection, job, command)


def _gpus_again(connection: Connection, every_s: float) -> Iterator[GpuSample]:
    """For ever; a cut link is a sample that says so."""
    said: list[str] = []
    backoff = Backoff(said.append, every_s)
    last = GpuSample(connection.host.name, 0.0, ())
    with RunPoller(connection) as poller:
        while True:
            try:
                cards = poller.gpus()
            except LOST as error:
                pause_s = backoff.lost(error)
                yield replace(last, problem=said[-1])
                time.sleep(pause_s)
                continue
            backoff.reconnected()
            last = GpuSample(connection.host.name, time.time(), cards,
                             "" if cards else "nvidia-smi says nothing that can be read; inv gpu shows what it says")
            yield last
            time.sleep(every_s)
