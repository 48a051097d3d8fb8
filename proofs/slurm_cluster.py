"""Slurm cluster of two nodes on this machine: munged, slurmctld and one slurmd per node, without systemd and cgroups.

    cluster = Cluster(Path(".lab/slurm"), bin_folder)
    cluster.up()
    cluster.down()

Its programs for a host of the lab (sbatch, squeue, scontrol …) are placed into `bin_folder`, where they find this
cluster and no other. Jobs run as the user who started it.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from rdtops.errors import LabError
from rdtops.lab import lab_processes, packages
from rdtops.lab.lab_files import place
from rdtops.lab.lab_processes import LabProcess
from rdtops.lab.ports import first_job_id, free_ports

NODES = ("n1", "n2")
CLIENTS = ("sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo", "sacct", "sacctmgr")
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"
READY_S = 40.0

# cred_expire is also how long a job that was queued again must rest: two minutes where nobody says so
_CONF = """\
ClusterName=rdtops
SlurmctldHost={hostname}(127.0.0.1)
SlurmctldPort={ctld_port}
FirstJobId={first_job_id}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=6
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=10
MinJobAge=300
MessageTimeout=3
SlurmdTimeout={node_timeout_s}
GresTypes=gpu
{nodes}
PartitionName=gpu Nodes={names} Default=YES MaxTime=60 MaxNodes=2 State=UP PriorityTier=1
PartitionName=urgent Nodes={names} MaxTime=10 State=UP PriorityTier=10
PartitionName=brief Nodes={names} DefaultTime=2 MaxTime=60 State=UP
PartitionName=closed Nodes={names} MaxTime=10 State=DOWN AllowAccounts=nobody
"""
_NODE = ("NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000 "
         "Gres=gpu:3090:2 Feature=a800")


def obstacle() -> str:
    """Return why a cluster cannot run here, or ''."""
    missing = packages.missing(wanted=packages.CLUSTER)
    return f"not installed: {', '.join(program.package for program in missing)}" if missing else ""


class Cluster:
    """A cluster. All its files are in `root`, whose path must be short because of the sockets."""

    def __init__(self, root: Path, bin_folder: Path, *, node_timeout_s: int = 300) -> None:
        self.root, self.bin_folder = root.absolute(), bin_folder
        self.node_timeout_s = node_timeout_s

    # --- up and down

    def up(self) -> None:
        """Start the cluster. Return when every node is idle. Raise LabError with the end of the logs."""
        if why := obstacle():
            raise LabError(f"no Slurm here: {why}", remedy=packages.install_command(packages.CLUSTER))
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._write_files()
        self._run("munged", f"--key-file={self.root}/munge.key", f"--socket={self.root}/munge.socket",
                  f"--pid-file={self.root}/munged.pid", f"--log-file={self.root}/munged.log",
                  f"--seed-file={self.root}/munged.seed", "--force")
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self._wait_for_nodes()

    def down(self) -> None:
        """End its jobs and daemons."""
        if self.pid_of("slurmctld"):
            self.client("scancel", "--user", getpass.getuser(), check=False)
        for name in ("slurmctld", *(f"slurmd-{node}" for node in NODES)):
            self._end(name)
        lab_processes.end_all(lambda: lab_processes.with_environment("SLURM_CONF", str(self.conf)))
        self._end("munged")

    def mend(self) -> None:
        """Restart stopped daemons, and cancel all jobs."""
        if self.pid_of("slurmctld") is None:
            self.start_controller()
        self.client("scancel", "--user", getpass.getuser())
        down = self.client("sinfo", "-h", "-N", "-p", "gpu", "-t", "down", "-o", "%N").split()
        for name in down:  # a node that registers again is accepted
            self.stop_node(name)
        for name in NODES:
            if self.pid_of(f"slurmd-{name}") is None:
                self.start_node(name)
        self._wait_for_nodes()

    def stop_controller(self) -> None:
        self._end("slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld. Return when it answers."""
        self._run("slurmctld", "-f", str(self.conf))
        deadline_s = time.monotonic() + READY_S
        while "is UP" not in self.client("scontrol", "ping", check=False):
            if time.monotonic() > deadline_s:
                raise LabError(f"slurmctld does not answer after {READY_S:.0f} s; {self._logs()}")
            time.sleep(0.1)

    def fail_node(self, name: str) -> None:
        """Mark a node as down, as if the machine had died: Slurm ends or requeues its jobs. `mend` repairs it."""
        self.client("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def stop_node(self, name: str) -> None:
        """End a node's slurmd, as if the machine were gone; its jobs continue."""
        self._end(f"slurmd-{name}")

    def start_node(self, name: str) -> None:
        self._run("slurmd", "-f", str(self.conf), "-N", name)

    def client(self, *words: str, check: bool = True) -> str:
        """Run a program of Slurm. Return its output."""
        done = subprocess.run(words, env={**os.environ, "SLURM_CONF": str(self.conf)}, capture_output=True, text=True,
                              timeout=60, check=False)
        if done.returncode and check:
            raise LabError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    @property
    def conf(self) -> Path:
        return self.root / "slurm.conf"

    def pid_of(self, daemon: str) -> int | None:
        """Return the pid of slurmctld, slurmd-n1 or munged; None when it does not run."""
        try:
            pid = int((self.root / f"{daemon}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if LabProcess.of(pid) and daemon.partition("-")[0] in lab_processes.command_line(pid) else None

    # --- files

    def _write_files(self) -> None:
        for folder in ("state", *(f"spool-{name}" for name in NODES)):
            (self.root / folder).mkdir(exist_ok=True)
        key = self.root / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))
        ports, hostname = self._ports(), socket.gethostname()
        nodes = [_NODE.format(name=name, hostname=hostname, port=port)
                 for name, port in zip(NODES, ports[1:], strict=True)]
        place(self.conf, _CONF.format(root=self.root, hostname=hostname, user=getpass.getuser(), ctld_port=ports[0],
                                      first_job_id=first_job_id(), nodes="\n".join(nodes), names=",".join(NODES),
                                      node_timeout_s=self.node_timeout_s))
        for number in range(2):
            (self.root / f"gpu{number}").touch()
        place(self.root / "gres.conf", f"NodeName={','.join(NODES)} Name=gpu Type=3090 File={self.root}/gpu[0-1]\n")
        place(self.root / "cgroup.conf", "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        for program in CLIENTS:
            place(self.bin_folder / program, f"#!/bin/sh\nSLURM_CONF={shlex.quote(str(self.conf))} exec "
                  f'{_found(program) or program} "$@"\n', 0o755)

    def _ports(self) -> Sequence[int]:
        file = self.root / "ports"
        if not file.exists():
            place(file, " ".join(str(port) for port in free_ports(1 + len(NODES))) + "\n")
        return [int(port) for port in file.read_text().split()]

    # --- daemons

    def _run(self, program: str, *words: str) -> None:
        log = self.root / f"{program}.start"
        with log.open("wb") as said:
            done = subprocess.run([str(_found(program)), *words], env={**os.environ, "SLURM_CONF": str(self.conf)},
                                  stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60, check=False)
        if done.returncode:
            raise LabError(f"{program} did not start: {log.read_text()[-500:]} {self._logs()}")

    def _wait_for_nodes(self) -> None:
        deadline_s = time.monotonic() + READY_S
        while True:
            told = self.client("sinfo", "-h", "-N", "-p", "gpu", "-o", "%t", check=False).split()
            if told == ["idle"] * len(NODES):
                return
            if time.monotonic() > deadline_s:
                raise LabError(f"the nodes of the cluster are {', '.join(told) or 'silent'} after {READY_S:.0f} s; "
                               f"{self._logs()}")
            time.sleep(0.1)

    def _logs(self) -> str:
        logs = [self.root / f"{name}.log" for name in ("munged", "slurmctld", *(f"slurmd-{node}" for node in NODES))]
        return "; ".join(f"{log.name}: {log.read_text(errors='replace')[-400:]}" for log in logs if log.exists())

    def _pid(self, daemon: str) -> int:
        pid = self.pid_of(daemon)
        if pid is None:
            raise LabError(f"{daemon} does not run")
        return pid

    def _end(self, daemon: str) -> None:
        pid = self.pid_of(daemon)
        if pid is not None:
            lab_processes.end_all(lambda: {pid} if self.pid_of(daemon) == pid else set())


def _found(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SBIN)
