"""Train on a cluster with Slurm: submit jobs, report their state, and check before a launch.

    [hosts.cluster]
    launcher = "slurm"          # the host is a login node
    [hosts.cluster.plugins.slurm]
    partition = "gpu"
    nodes = 2
    time = "24:00:00"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rdtops.api import (
    CheckResult,
    Command,
    Connection,
    Host,
    Job,
    JobState,
    Option,
    RunError,
    RunSpec,
    Spread,
    Submitted,
    hookimpl,
)

from . import batch, slurm_checks, slurm_on_host, states

API_VERSION = 1
_WORD = r"[A-Za-z0-9_.,@:&|!*()\[\]-]*"
OPTIONS = {
    "partition": Option(str, "as --partition; empty: the cluster's default", "", pattern=_WORD),
    "account": Option(str, "as --account", "", pattern=_WORD),
    "qos": Option(str, "quality of service", "", pattern=_WORD),
    "constraint": Option(str, "features that the nodes must have, as --constraint", "", pattern=_WORD),
    "nodes": Option(int, "nodes of a training", 1, least=1),
    "gpus_per_node": Option(int, "0: as many as the training has processes on a node", 0, least=0),
    "gpu_type": Option(str, "Slurm's name of the GPU, such as a100; empty: any", "", pattern=r"[A-Za-z0-9_.-]*"),
    "cpus_per_node": Option(int, "for loading data; 0: the cluster's default, often one", 0, least=0),
    "time": Option(str, "limit of a job, as --time: minutes, HH:MM:SS or D-HH:MM:SS; empty: the partition's", "",
                   pattern=r"(\d+-)?\d+(:\d+){0,2}|"),
    "save_before_limit_s": Option(int, "seconds before the limit at which the training saves and requeues itself",
                                  300, least=10),
    "sbatch": Option(list, 'more #SBATCH lines, such as "--exclusive"', (), pattern=r"--[^\n]+"),
}


class Slurm:
    """The Launcher of one host, with its options. A program on the login node asks Slurm."""

    name = "slurm"
    is_local = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def files(self, job: Job, spread: Spread | None) -> Mapping[str, str]:
        found = {batch.BATCH: batch.batch(job, self.options)}
        return {**found, batch.NODE: batch.node(job, spread)} if spread else found

    def spread(self, job: Job, spread: Spread) -> Command:
        return batch.step(job, self.options)

    def submit(self, connection: Connection, job: Job) -> Submitted:
        answer = connection.call(slurm_on_host, {"op": "submit", "batch": batch.BATCH, **_named(job)}, timeout_s=120)
        if answer.get("problem"):
            raise RunError(f"{connection.host.name}: Slurm rejected the job {job.name}: {answer['problem']}",
                           remedy=f"inv check --host {connection.host.name}")
        return Submitted(f"Slurm, job {answer['id']}", answer["already"])

    def states(self, connection: Connection, jobs: Sequence[Job]) -> Mapping[str, JobState]:
        answer = connection.call(slurm_on_host, {"op": "states", "jobs": [_named(job) for job in jobs]}, timeout_s=120)
        facts = answer["states"]
        return {job.name: states.job_state(facts[batch.job_name(job)], connection.host.name) for job in jobs}

    def stop(self, connection: Connection, job: Job, grace_s: float) -> None:
        request = {"op": "stop", "grace_s": grace_s, **_named(job)}
        answer = connection.call(slurm_on_host, request, timeout_s=grace_s + 180)
        if answer["left"]:
            raise RunError(f"{connection.host.name}: {job.name} did not end: {answer['problem'] or 'it still runs'}",
                           remedy=f"squeue -u $USER   # on {connection.host.name}")

    def inside(self, connection: Connection, job: Job, command: Command) -> Command:
        state = self.states(connection, [job])[job.name]
        nodes = str(batch.nodes_of(job, self.options))
        return Command("srun", f"--jobid={state.id}", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}",
                       "--input=none", *command.argv)

    def start_line(self, job: Job) -> str:
        return f"cd {Command(str(job.folder)).shell()} && sbatch {batch.BATCH}"

    def attach_line(self, job: Job) -> str:
        return f"exec {Command('tail', '-n', '50', '-F', str(job.log)).shell()}"


def _named(job: Job) -> dict[str, str]:
    return {"folder": str(job.folder), "name": batch.job_name(job)}


@hookimpl
def register_launchers(options: Mapping[str, Any]) -> list[Slurm]:
    return [Slurm(options)]


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec,
                    options: Mapping[str, Any]) -> list[CheckResult]:
    if host.launcher != Slurm.name:
        return []
    return slurm_checks.findings(host, connection, spec, options)
