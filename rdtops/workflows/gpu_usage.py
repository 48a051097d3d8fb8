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
from rdtops.views.gpus import GpuSampleOutput, NvidiaSmiOutput
from rdtops.workflows.session import HostSession

GPU_QUERY = ("index", "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")


def gpu(session: HostSession, *, again_every_s: float) -> Iterator[NvidiaSmiOutput | GpuSampleOutput]:
    host, connection = session.host, session.connect()
    if again_every_s and not launchers.traits(host).is_local:
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
    if launchers.traits(connection.host).is_local:
        return command
    run = overview.find(connection)
    if run.state is not RunState.RUNNING:
        raise RunError(f"{run.host}: {run.run_id} is {run.state.value}, so it has no nodes",
                       remedy=f"inv status --host {run.host}")
    job = jobs.training_job(overview.paths(connection, run))
    return launchers.launcher(connection.host).inside(connection, job, command)


def _sampled(connection: Connection, every_s: float) -> Iterator[GpuSampleOutput]:
    """Sample them for ever; a cut link is a sample that says so."""
    said: list[str] = []
    backoff = Backoff(said.append, every_s)
    last = GpuSampleOutput(connection.host.name, 0.0, ())
    with RunPoller(connection) as poller:
        while True:
            try:
                gpus = poller.gpus()
            except LOST as error:
                pause_s = backoff.lost(error)
                yield replace(last, problem=said[-1])
                time.sleep(pause_s)
                continue
            backoff.reconnected()
            problem = "" if gpus else "cannot parse the output of nvidia-smi; inv gpu prints it"
            last = GpuSampleOutput(connection.host.name, time.time(), gpus, problem)
            yield last
            time.sleep(every_s)
