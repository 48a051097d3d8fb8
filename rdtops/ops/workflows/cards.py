"""The GPUs of a host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from rdtops.contract.run import RunState
from rdtops.errors import RunError, UsageError
from rdtops.ops import jobs, launchers, runs
from rdtops.ops.news import LOST, Newsroom, Patience
from rdtops.ops.render.gpus import GpuSampleOutput, NvidiaSmiOutput
from rdtops.ops.session import HostSession
from rdtops.remote.command import Command
from rdtops.remote.connection import Connection

GPU_QUERY = ("index", "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")


def gpu(session: HostSession, *, again_every_s: float) -> Iterator[NvidiaSmiOutput | GpuSampleOutput]:
    host, connection = session.host, session.connect()
    if again_every_s and host.trains_elsewhere:
        raise UsageError(f"{host.name} is a login node: --watch looks at its own GPUs only",
                         remedy=f"inv gpu --host {host.name}   # those of the newest run's nodes, now")
    if again_every_s:
        yield from _sampled(connection, again_every_s)
        return
    query = Command("nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader,nounits")
    table = connection.run(_where_it_trains(connection, Command("nvidia-smi")), timeout_s=60)
    lines = connection.run(_where_it_trains(connection, query), timeout_s=60).out.strip().splitlines()
    rows = tuple(dict(zip(GPU_QUERY, (v.strip() for v in line.split(",")), strict=False)) for line in lines)
    yield NvidiaSmiOutput(host.name, table.out, rows)


def _where_it_trains(connection: Connection, command: Command) -> Command:
    """Return the command as it runs where the GPUs are: on a cluster, on the nodes of the newest run."""
    if not connection.host.trains_elsewhere:
        return command
    run = runs.find(connection)
    if run.state is not RunState.RUNNING:
        raise RunError(f"{run.host}: {run.run_id} is {run.state.value}, so it has no nodes",
                       remedy=f"inv status --host {run.host}")
    return launchers.of(connection.host).inside(connection, jobs.of_run(runs.paths(connection, run)), command)


def _sampled(connection: Connection, every_s: float) -> Iterator[GpuSampleOutput]:
    """Sample them for ever; a cut link is a sample that says so."""
    said: list[str] = []
    patience = Patience(said.append, every_s)
    last = GpuSampleOutput(connection.host.name, 0.0, ())
    with Newsroom(connection) as newsroom:
        while True:
            try:
                gpus = newsroom.gpus()
            except LOST as error:
                pause_s = patience.lost(error)
                yield replace(last, problem=said[-1])
                time.sleep(pause_s)
                continue
            patience.reached()
            problem = "" if gpus else "cannot parse the output of nvidia-smi; inv gpu prints it"
            last = GpuSampleOutput(connection.host.name, time.time(), gpus, problem)
            yield last
            time.sleep(every_s)
