"""Causes: their names, and a diagnosis of one."""

from __future__ import annotations

from dataclasses import dataclass

from rdtops.contract.diagnosis.evidence import Evidence
from rdtops.contract.diagnosis.messages import Line

RESUME = "inv train --host {host} --resume {run}"
LOGS = "inv logs --host {host} --run {run} --lines 200"


@dataclass(frozen=True)
class Diagnosis:
    """The cause of an end or of slowness, with its evidence and remedy."""

    cause: str  # one of CAUSES
    summary: str
    lines: tuple[Line, ...]  # the evidence
    next: str  # the command to type
    restart: bool = False  # the supervisor may restart it unchanged

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong: the run is healthy, or ended normally."""
        return self.cause in ("healthy", "finished", "stopped", "time_limit", "prepared", "queued", "cancelled")


CAUSES = {  # name -> what it means
    "healthy": "it is training, and nothing that slows it was found",
    "silent": "it has written nothing for minutes, and there is no step yet",
    "finished": "all steps are done",
    "prepared": "it was never launched",
    "stopped": "it was stopped on request: `inv stop`, or a signal",
    "time_limit": "it was stopped by SIGUSR1, which a scheduler sends before its time limit",
    "queued": "it waits in the queue of a cluster",
    "held": "it is held in the queue of a cluster",
    "cancelled": "its job was cancelled",
    "preempted": "its job was preempted, and not requeued",
    "timed_out": "its job reached the time limit, and was not requeued",
    "node_failed": "a node of the cluster failed",
    "not_started": "the cluster could not run its script",
    "forgotten": "it ended, and the scheduler has no record of how",
    "scheduler_silent": "the scheduler of the cluster does not answer",
    "out_of_gpu_memory": "CUDA out of memory",
    "model_too_big": "the weights and Adam's moments alone do not fit into memory",
    "out_of_host_memory": "the host could not allocate memory for the training",
    "out_of_shared_memory": "the shared memory is too small for the batches of the loader's workers",
    "oom_killer": "the kernel killed a process of the run because memory ran out",
    "killed": "a process of the run was killed by a signal from outside",
    "crashed": "a library crashed: SIGSEGV, SIGBUS, SIGABRT",
    "not_finite": "the loss or the gradient is not finite",
    "disk_full": "no space, no inodes or no quota left",
    "gpu_lost": "a GPU failed or is missing",
    "gpu_busy": "another process holds the GPU, and its compute mode allows one",
    "fabric_manager": "the GPUs wait for nvidia-fabricmanager, which connects them",
    "driver_replaced": "the GPU driver was updated: the one that is loaded is not the one on the disk",
    "collective_timeout": "a collective timed out: NCCL or gloo",
    "stuck": "a rank makes no progress, and the others wait for it",
    "file_system": "a file system failed: a stale handle, an I/O error, a server that is gone",
    "file_locked": "an HDF5 file is locked, or its file system has no locks",
    "too_many_files": "the limit of open files was reached: ulimit -n",
    "too_many_processes": "the limit of processes and threads was reached: ulimit -u",
    "no_network": "a server outside of the host could not be reached",
    "tracker": "the tracker wants a login, or does not answer",
    "bad_sample": "a sample of the dataset cannot be read",
    "missing_asset": "data, weights or an encoder are missing at the path in config.json",
    "wrong_weights": "weights or a checkpoint are damaged or belong to another model",
    "environment": "Python, a package or a library is missing or of the wrong version",
    "config": "the configuration is invalid",
    "port_in_use": "the rendezvous port of the processes was in use",
    "no_permission": "no permission to read or write a file or folder",
    "rebooted": "the host was rebooted",
    "lost": "all its processes are gone, and no reason was recorded",
    "bug": "an unknown error",
    "slow_data": "steps wait for samples",
    "slow_checkpoints": "steps wait for the disk of the checkpoints",
    "slow_rank": "the processes wait for the slowest one",
    "shared_gpu": "another process uses a GPU of the run",
    "throttled_gpu": "a GPU runs below its clock: heat or power",
}


def with_host(remedy: str, host: str) -> str:
    """Return a remedy of a program on the host as a person types it elsewhere: a task gets its --host."""
    command, mark, comment = remedy.partition("   # ")
    is_task = command.startswith("inv ") and ";" not in command and "--host" not in command
    return f"{command} --host {host}{mark}{comment}" if is_task else remedy


def filled(text: str, evidence: Evidence, line: Line | None = None) -> str:
    """Return the text with host, run and line filled in."""
    return (text.replace("{host}", evidence.host).replace("{run}", evidence.run_id)
            .replace("{line}", line.text.strip()[:300] if line else ""))
