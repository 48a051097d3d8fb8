"""Slurm checks: whether Slurm accepts this job, and when it would start. Nothing is changed, no job is submitted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.api import (
    Answer,
    CheckResult,
    Command,
    Connection,
    Host,
    Job,
    Probe,
    RunSpec,
    ask,
)

from . import batch
from .cluster import (
    Nodes,
    Partition,
    gpus_of,
    parse_accounts,
    parse_filesystem,
    parse_nodes,
    parse_partitions,
    parse_ping,
    parse_test,
    seconds,
)
from .expectation import Expectation, expectation_probe

# of `stat -f`: file systems that many machines share. A local one may still be exported, so that is only a warning
SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb2", "fuseblk", "fuse", "wekafs", "panfs", "orangefs",
          "afs", "v9fs", "virtiofs", "ocfs2", "gfs", "gfs2", "snfs", "pvfs2")
_FILESYSTEM = ('while [ ! -e "$d" ]; do d=$(dirname "$d"); done; stat -f -c %T "$d"; hostname; '
               'scontrol -o show node | tr " " "\\n" | grep -E "^NodeHostName="')
_QUEUE_LONG = 50  # waiting jobs from which the check warns
EARLY_S = 60.0  # Slurm may signal so much earlier than --signal says


@dataclass(frozen=True)
class JobRequest:
    """A training, its job, and the answers about it."""

    host: Host
    spec: RunSpec
    job: Job
    options: Mapping[str, Any]
    answers: Mapping[str, Answer[Any]]

    def remedy(self, options: str) -> str:
        return f"{options} under [hosts.{self.host.name}.plugins.slurm] in hosts.toml"

    def there(self, line: str) -> str:
        return f"{line}   # on {self.host.name}"

    @property
    def partitions(self) -> Mapping[str, Partition]:
        return self.answers["partitions"].value or {}

    @property
    def names(self) -> list[str]:
        """Return the requested partitions: Slurm takes the first of them that can start the job."""
        default = [p.name for p in self.partitions.values() if p.fields.get("Default") == "YES"]
        return [name for name in batch.requested("partition", self.options).split(",") if name] or default[:1]

    @property
    def partition(self) -> Partition | None:
        """Return the first requested one that is up, else the first that exists."""
        there = [self.partitions[name] for name in self.names if name in self.partitions]
        return next((p for p in there if p.is_up), there[0] if there else None)

    @property
    def kinds(self) -> list[Nodes]:
        """Return the nodes of the partitions, by kind."""
        return [n for n in self.answers["nodes"].value or () if n.partition in self.names or self.partition is None]

    @property
    def nodes(self) -> int:
        return batch.nodes_of(self.job, self.options)


def findings(host: Host, connection: Connection, spec: RunSpec, options: Mapping[str, Any]) -> list[CheckResult]:
    job = _job(spec)
    answers = ask(connection, probes(job, spec, options, connection.host.python))
    if answers["controller"].value is None:
        return [_no_controller(host, answers["controller"])]
    return [result for judge in (_partition, _account, _gres, _features, _limits, _taken, _workspace, _time)
            for result in judge(JobRequest(host, spec, job, options, answers))]


def probes(job: Job, spec: RunSpec, options: Mapping[str, Any], python: str) -> list[Probe[Any]]:
    words = [word for line in batch.directives(job, options) for word in shlex.split(line)
             if not word.startswith(("--job-name", "--output"))]
    test = Command("sbatch", "--test-only", *words).shell()
    part = Command("-p", options["partition"]).shell() if options["partition"] else ""
    return [
        Probe("controller", "scontrol ping", parse_ping, timeout_s=30),
        Probe("partitions", "scontrol -o show partition", parse_partitions, timeout_s=30),
        Probe("nodes", "sinfo -h -o '%R|%D|%t|%G|%f'", parse_nodes, timeout_s=30),
        Probe("test", f"printf '#!/bin/sh\\n:\\n' | {test} 2>&1", parse_test, timeout_s=30),
        Probe("queue", f"squeue -h -t PD -o '%i' {part} | grep -c '^[0-9]'", lambda output: int(output.out),
              timeout_s=30),
        Probe("accounts", "sacctmgr -nP show assoc user=\"$(id -un)\" format=account,qos", parse_accounts,
              timeout_s=30),
        Probe("filesystem", f"d={Command(spec.workspace).shell()}; {_FILESYSTEM}", parse_filesystem, timeout_s=30),
        expectation_probe(spec, python)]


# --- judges ---

Judged = Iterator[CheckResult]


def _no_controller(host: Host, answer: Answer[str]) -> CheckResult:
    if answer.output.code == 127:
        return CheckResult.fail("slurm", "there is no Slurm on this host", answer.problem,
                                f"address of [hosts.{host.name}] in hosts.toml: a login node of the cluster")
    return CheckResult.fail("slurm", "its controller does not answer", answer.problem,
                            f"scontrol ping   # on {host.name}; running jobs continue")


def _partition(request: JobRequest) -> Judged:
    partition = request.partition
    unknown = [name for name in request.names if name not in request.partitions]
    if partition is None or unknown:
        wanted = ", ".join(unknown) or "marked as default"
        yield CheckResult.fail("slurm partition", f"there is no partition {wanted}",
                               f"partitions: {', '.join(request.partitions) or request.answers['partitions'].problem}",
                               request.remedy("partition"))
    elif not partition.is_up:
        yield CheckResult.fail("slurm partition", f"{partition.name} is {partition.fields.get('State')}", "",
                               request.there(f"scontrol show partition {partition.name}"))
    else:
        yield CheckResult.ok("slurm partition", f"{partition.name}, at most {partition.fields.get('MaxTime')} a job; "
                             f"{request.answers['controller'].value}")


def _account(request: JobRequest) -> Judged:
    """Check account and QOS against the partition and accounting."""
    partition = request.partition
    accounts: Mapping[str, frozenset[str]] | None = request.answers["accounts"].value
    account, qos = request.options["account"], request.options["qos"]
    wrong = [f"{partition.name} does not allow the {word} {value}" for word, kind, value in
             (("account", "Accounts", account), ("QOS", "Qos", qos)) if partition and value
             and not partition.allows(kind, value)]
    if accounts is not None and account and account not in accounts:
        wrong.append(f"you have no account {account}; yours: {', '.join(accounts)}")
    elif accounts is not None and qos and not any(qos in of for name, of in accounts.items()
                                                  if not account or name == account):
        wrong.append(f"you cannot use the QOS {qos}")
    if wrong:
        yield CheckResult.fail("slurm account", "; ".join(wrong), request.answers["accounts"].output.out[:200],
                               request.remedy("account and qos"))
    elif accounts is None:
        yield CheckResult.skip("slurm account", "the cluster has no accounting; the partition allows the request",
                               request.answers["accounts"].problem)
    else:
        yield CheckResult.ok("slurm account", f"{account or 'your default'}, QOS {qos or 'default'}")


def _gres(request: JobRequest) -> Judged:
    wanted = batch.gpus_per_node(request.job, request.options)
    if not wanted:
        yield CheckResult.skip("slurm gpus", "not needed: device is cpu")
        return
    nodes = request.kinds
    enough = sum(n.count for n in nodes if gpus_of(n.gres, request.options["gpu_type"]) >= wanted)
    words = f"{wanted} {request.options['gpu_type']} GPUs a node".replace("  ", " ")
    if enough < request.nodes:
        yield CheckResult.fail("slurm gpus", f"{request.nodes} nodes with {words} are requested, "
                               f"{enough} have them", f"nodes have: {', '.join(sorted({n.gres for n in nodes}))}",
                               f"inv train --host {request.host.name} --set num_processes=…   # or another partition")
    else:
        yield CheckResult.ok("slurm gpus", f"{enough} nodes have {words}")


def _features(request: JobRequest) -> Judged:
    wanted = set(re.findall(r"[A-Za-z][A-Za-z0-9_.-]*", request.options["constraint"]))
    existing = frozenset[str]().union(*(n.features for n in request.kinds))
    if missing := sorted(wanted - existing):
        yield CheckResult.fail("slurm features", f"no node has {', '.join(missing)}",
                               f"features: {', '.join(sorted(existing)) or 'none'}",
                               request.remedy("constraint"))
    elif wanted:
        yield CheckResult.ok("slurm features", ", ".join(sorted(wanted)))


def _limits(request: JobRequest) -> Judged:
    nodes, partition = request.nodes, request.partition
    most = (partition.fields.get("MaxNodes", "") if partition else "").replace("UNLIMITED", "")
    processes = request.spec.train.num_processes
    if processes % nodes:
        yield CheckResult.fail("slurm nodes", f"{processes} processes cannot be divided evenly over {nodes} nodes", "",
                               f"inv train --host {request.host.name} --set num_processes="
                               f"{nodes * -(-request.job.processes // nodes)}   # or nodes in hosts.toml")
    elif most and nodes > int(most):
        yield CheckResult.fail("slurm nodes", f"{nodes} nodes are requested, the partition allows {most}", "",
                               request.remedy("nodes"))
    else:
        yield CheckResult.ok("slurm nodes", f"{nodes}, with {processes // nodes} processes each")


def _taken(request: JobRequest) -> Judged:
    """Report Slurm's own test of the job."""
    answer: Answer[tuple[str, str]] = request.answers["test"]
    if answer.value is None:
        yield CheckResult.warn("slurm queue", "not known when the job would start", answer.problem,
                               request.there("squeue"))
        return
    start, why = answer.value
    waiting = request.answers["queue"].value
    if why:
        yield CheckResult.fail("slurm queue", f"Slurm would reject this job: {why}", answer.output.excerpt,
                               request.remedy("the requested resources"))
    elif waiting is not None and waiting > _QUEUE_LONG:
        yield CheckResult.warn("slurm queue", f"{waiting} jobs wait; Slurm expects to start it at {start}", "",
                               request.there("squeue --start"))
    else:
        yield CheckResult.ok("slurm queue", f"{waiting} jobs wait; Slurm expects to start it at {start}")


def _workspace(request: JobRequest) -> Judged:
    answer: Answer[tuple[str, bool]] = request.answers["filesystem"]
    remedy = request.there(f"srun -N1 ls {Command(request.spec.workspace).shell()}")
    if answer.value is None:
        yield CheckResult.warn("slurm workspace", "not known whether the nodes see the workspace", answer.problem,
                               remedy)
        return
    kind, is_here = answer.value
    if is_here:
        yield CheckResult.ok("slurm workspace", "every node is this machine")
    elif any(kind.startswith(shared) for shared in SHARED):
        yield CheckResult.ok("slurm workspace", f"is on {kind}, which the nodes share")
    else:
        yield CheckResult.warn("slurm workspace", f"is on {kind}, which seems local: the nodes may not see it", "",
                               remedy)


def _time(request: JobRequest) -> Judged:
    """Check the time limit. A short one is fine, since the training saves and requeues itself; one without time to
    train is an error."""
    partition = request.partition
    limit, origin = _limit(request)
    limit_s, most_s = seconds(limit), partition.max_s if partition else float("inf")
    limit += " minutes" if limit.isdigit() else ""
    save_s = request.options["save_before_limit_s"]
    usable_s = limit_s - save_s - EARLY_S
    expected: Expectation | None = request.answers["expectation"].value
    if limit_s > most_s and partition:
        yield CheckResult.fail("slurm time", f"{limit} is requested, {partition.name} allows "
                               f"{partition.fields.get('MaxTime')}: the job would never start", "",
                               request.remedy("time"))
    elif usable_s <= 0:
        yield CheckResult.fail("slurm time", f"the limit of {limit} leaves no time to train: the training saves "
                               f"{save_s} s before it, and Slurm may signal {EARLY_S:g} s early", origin,
                               request.remedy("time, or save_before_limit_s,"))
    elif expected is None:
        yield CheckResult.ok("slurm time", f"{limit} a job; no earlier run of this kind to estimate from; at its limit "
                             "a training saves and requeues itself", origin)
    else:
        needed_s = expected.seconds(request.spec)
        jobs = -(-needed_s // usable_s) if usable_s < float("inf") else 1
        again = "" if jobs <= 1 else f": {jobs:.0f} jobs one after the other, each from the newest checkpoint"
        yield CheckResult.ok("slurm time", f"about {needed_s / 3600:.1f} h at {expected.step_s:.2f} s a step{again}",
                             f"measured in {expected.run_id}; {origin}")


def _limit(request: JobRequest) -> tuple[str, str]:
    """Return the time limit of the job, and where it comes from."""
    if time := batch.requested("time", request.options):
        return time, "time of hosts.toml"
    if request.partition is None:
        return "UNLIMITED", "no partition"
    name = request.partition.default_time
    return (request.partition.fields.get(name, "UNLIMITED"),
            f"{name} of the partition {request.partition.name}, as hosts.toml requests no time")


# --- helpers ---

def _job(spec: RunSpec) -> Job:
    train = spec.train
    return Job(spec.run_id, spec.paths.script, spec.paths.log, f"RDTOPS_RUN={spec.run_id}", train.num_processes,
               train.device == "cuda", spreads=True)
