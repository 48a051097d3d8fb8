"""GPU usage: the GPUs of a host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from rdtops.contract.run import RunState
from rdtops.errors import CommandTimeout, RunError, UsageError
from rdtops.hostlib import nvidia_smi
from rdtops.runs import jobs, launchers, overview
from rdtops.runs.poller import LOST, Backoff, RunPoller
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection, Result
from rdtops.views.gpu_output import GpuSampleOutput, NvidiaSmiOutput
from rdtops.workflows.session import HostSession

GPU_FIELDS = (*nvidia_smi.IDENTITY, "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")

ANSWER_S = 60.0  # without persistence mode the driver wakes each GPU first


def gpu(session: HostSession, *, again_every_s: float) -> Iterator[NvidiaSmiOutput | GpuSampleOutput]:
    host, connection = session.host, session.connect()
    if again_every_s and not launchers.traits(host).is_local:
        raise UsageError(f"{host.name} is a login node: --watch would show its own GPUs only",
                         remedy=f"inv gpu --host {host.name}   # the GPUs of the newest run's nodes, once")
    if again_every_s:
        yield from _sampled(connection, again_every_s)
        return
    query = Command(*nvidia_smi.query(GPU_FIELDS))
    table, rows = (_told(connection, command) for command in (Command("nvidia-smi"), query))
    listing = nvidia_smi.parse(GPU_FIELDS, rows.out)
    if not table.ok and not listing.gpus:
        said = (table.out.strip() or table.err.strip())[-600:]
        raise RunError(f"{host.name}: nvidia-smi ended with exit code {table.code}: {said or 'no output'}",
                       remedy=f"inv check --host {host.name}")
    text = "\n".join(filter(None, (table.out.rstrip(), listing.warning)))
    yield NvidiaSmiOutput(host.name, text, tuple(dict(gpu.told) for gpu in listing.gpus))


def _told(connection: Connection, command: Command) -> Result:
    """Return the output of nvidia-smi where the GPUs are, whatever its exit code: it may be about one of eight."""
    host = connection.host.name
    try:
        return connection.run(_where_it_trains(connection, command), timeout_s=ANSWER_S, check=False)
    except CommandTimeout as error:
        raise RunError(f"{host}: no answer of nvidia-smi within {ANSWER_S:g} s: a driver or GPU fault",
                       remedy=f"sudo dmesg | grep -i xid   # on {host}; a reboot usually helps") from error


def _where_it_trains(connection: Connection, command: Command) -> Command:
    """Return the command that runs on the machine with the GPUs: on a cluster, on the nodes of the newest run."""
    if launchers.traits(connection.host).is_local:
        return command
    run = overview.find(connection)
    if run.state is not RunState.RUNNING:
        raise RunError(f"{run.host}: {run.run_id} is {run.state.value} and has no nodes",
                       remedy=f"inv status --host {run.host}")
    job = jobs.training_job(overview.paths(connection, run))
    return launchers.launcher(connection.host).inside(connection, job, command)


def _sampled(connection: Connection, every_s: float) -> Iterator[GpuSampleOutput]:
    """Yield samples for ever; a lost connection gives a sample with its problem."""
    messages: list[str] = []
    backoff = Backoff(messages.append, every_s)
    last, shown = GpuSampleOutput(connection.host.name, 0.0, ()), ""
    with RunPoller(connection) as poller:
        while True:
            try:
                gpus, warning = poller.gpus()
            except LOST as error:
                pause_s = backoff.lost(error)
                yield replace(last, problem=messages[-1])
                time.sleep(pause_s)
                continue
            backoff.reconnected()
            problem = "" if gpus else "nvidia-smi lists no GPU; inv gpu prints its output"
            news = warning if warning != shown else ""
            last = GpuSampleOutput(connection.host.name, time.time(), gpus, problem, news)
            shown = warning
            yield last
            time.sleep(every_s)
