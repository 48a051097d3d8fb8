"""The GPUs of a host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from rdtops.contract import nvidia_smi
from rdtops.contract.run import RunState
from rdtops.errors import RunError, UsageError
from rdtops.ops import jobs, launchers, runs
from rdtops.ops.news import LOST, Newsroom, Patience
from rdtops.ops.session import Session
from rdtops.ops.views import Gpus, GpuSample
from rdtops.remote.command import Command
from rdtops.remote.connection import Connection
from rdtops.remote.hosts import Host

GPU_FIELDS = (*nvidia_smi.IDENTITY, "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")


def gpu(session: Session, host: Host, *, again_every_s: float) -> Iterator[Gpus | GpuSample]:
    connection = session.connection(host)
    if again_every_s and host.trains_elsewhere:
        raise UsageError(f"{host.name} is a login node: --watch looks at its own GPUs only",
                         remedy=f"inv gpu --host {host.name}   # those of the newest run's nodes, now")
    if again_every_s:
        yield from _gpus_again(connection, again_every_s)
        return
    query = Command(*nvidia_smi.query(GPU_FIELDS))
    table = connection.run(_where_it_trains(connection, Command("nvidia-smi")), timeout_s=60)
    listing = nvidia_smi.parse(GPU_FIELDS, connection.run(_where_it_trains(connection, query), timeout_s=60,
                                                          check=False).out)
    text = "\n".join(filter(None, (table.out.rstrip(), listing.warning)))
    yield Gpus(host.name, text, tuple(dict(gpu.told) for gpu in listing.gpus))


def _where_it_trains(connection: Connection, command: Command) -> Command:
    """On a cluster: on the nodes of the newest run."""
    if not connection.host.trains_elsewhere:
        return command
    run = runs.find(connection)
    if run.state is not RunState.RUNNING:
        raise RunError(f"{run.host}: {run.run_id} is {run.state.value}, so it has no nodes to look at",
                       remedy=f"inv status --host {run.host}")
    return launchers.of(connection.host).inside(connection, jobs.of_run(runs.paths(connection, run)), command)


def _gpus_again(connection: Connection, every_s: float) -> Iterator[GpuSample]:
    """For ever; a cut link is a sample that says so."""
    said: list[str] = []
    patience = Patience(said.append, every_s)
    last, told = GpuSample(connection.host.name, 0.0, ()), ""
    with Newsroom(connection) as newsroom:
        while True:
            try:
                gpus, warning = newsroom.gpus()
            except LOST as error:
                pause_s = patience.lost(error)
                yield replace(last, problem=said[-1])
                time.sleep(pause_s)
                continue
            patience.reached()
            problem = "" if gpus else "nvidia-smi lists no GPU; inv gpu shows what it says"
            last = GpuSample(connection.host.name, time.time(), gpus, problem,
                             warning if warning != told else "")
            told = warning
            yield last
            time.sleep(every_s)
