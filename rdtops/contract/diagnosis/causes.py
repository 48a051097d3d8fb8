"""Causes: their names, the patterns by which logs and Journals show them, remedies, and whether a restart helps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdtops.contract.diagnosis.evidence import Evidence, Line

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


@dataclass(frozen=True)
class Symptom:
    """A pattern that shows a cause. `summary` and `next` may contain {host}, {run} and {line}."""

    cause: str
    pattern: re.Pattern[str]
    summary: str
    next: str
    restart: bool

    def seen_in(self, lines: Iterable[Line]) -> tuple[Line, re.Match[str]] | None:
        """Return the first line that matches, and its match."""
        for line in lines:
            if found := self.pattern.search(line.text):
                return line, found
        return None


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
    "collective_timeout": "a collective timed out: NCCL or gloo",
    "stuck": "a rank makes no progress, and the others wait for it",
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

FREE_SOME = "inv check --host {host}   # names the folder; free some space, then " + RESUME
DEPLOY = "inv deploy --host {host}   # then " + RESUME
SEE_GPU = "inv gpu --host {host}; inv check --host {host}   # then " + RESUME


def _symptom(cause: str, words: Sequence[str], summary: str, following: str, *, restart: bool = False) -> Symptom:
    return Symptom(cause, re.compile("|".join(words)), summary, following, restart)


SYMPTOMS = (  # specific ones first: when a line shows two, the first is taken
    _symptom("not_finite", ["the loss is not finite", "the gradient is not", "non-finite", "[Ll]oss is nan"],
             "the loss or the gradient is not finite; a restart would fail in the same way",
             RESUME + " --set learning_rate=...   # a lower one; inv replay shows the samples of the step"),
    _symptom("out_of_shared_memory", ["out of shared memory", "Unexpected bus error encountered in worker",
                                      r"worker \(pid.*killed by signal: Bus error"],
             "/dev/shm is too small for the loader's workers",  # noqa: S108  # its name, nothing is written there
             RESUME + " --set loader_workers=0   # or a larger /dev/shm"),
    _symptom("disk_full", ["No space left on device", "Disk quota exceeded", "ENOSPC", r"\[Errno (?:28|122)\]"],
             "the disk is full: no space, no inodes or no quota left", FREE_SOME),
    _symptom("gpu_lost", ["GPU has fallen off the bus", "device lost", "[Uu]nable to determine the device handle",
                          "no CUDA-capable device", "No CUDA GPUs are available", "has no GPU: torch"],
             "a GPU is missing", SEE_GPU),
    _symptom("gpu_lost", ["uncorrectable ECC", "NVML: (?:Driver|GPU)",
                          "CUDA error: (?:unspecified launch failure|unknown error|the launch timed out)",
                          "CUDA error: (?:an illegal memory access|hardware stack error)"],
             "a GPU failed during the training", SEE_GPU, restart=True),
    _symptom("out_of_gpu_memory", ["CUDA out of memory", "out of GPU memory", "CUDA error: out of memory",
                                   "CUBLAS_STATUS_ALLOC_FAILED"],
             "the GPU ran out of memory", RESUME + " --set batch_size_per_process=...   # half, and twice the "
             "gradient_accumulation_steps", restart=True),
    _symptom("out_of_host_memory", ["DefaultCPUAllocator: can't allocate", "[Cc]annot allocate memory",
                                    r"\bMemoryError\b", "no host memory for", "out of host memory", r"\[Errno 12\]"],
             "the host could not allocate memory for the training",
             "ssh {host} free -g   # what uses it; then " + RESUME,
             restart=True),
    _symptom("environment", ["AttributeError: module '(?!rdtops)", "ModuleNotFoundError",
                             "ImportError", "No module named", "undefined symbol",
                             "version `GLIBC", "DistributionNotFound", "there is no (?:venv|conda environment)",
                             "cannot open shared object file", "command not found", "(?:sh|env|exec): .*not found",
                             "is required for a normal functioning of this module", "driver version is insufficient"],
             "a package or library is missing or has the wrong version: {line}", "inv check --host {host}"),
    _symptom("port_in_use", ["EADDRINUSE", "[Aa]ddress already in use", "errno: 98",
                              "another process is utilizing it"],
             "the rendezvous port of the processes was in use", RESUME, restart=True),
    _symptom("no_permission", ["PermissionError", "Permission denied", "Read-only file system",
                               r"\[Errno (?:13|30)\]"],
             "no permission to read or write a file or folder: {line}", "inv check --host {host}"),
    _symptom("missing_asset", [r"no \*\.hdf5 file", "names no folder for", "No such file or directory",
                               "FileNotFoundError", "is no folder", "does not exist", "not a directory"],
             "an asset is missing at the path in config.json: {line}", DEPLOY),
    _symptom("bad_sample", ["DataError", r"\.hdf5: demo_", "[Uu]nable to (?:synchronously )?(?:open|read)",
                            "file signature not found", "truncated file", r"inflate\(\) failed"],
             "a sample of the dataset cannot be read: {line}",
             "inv check --host {host}   # then inv deploy --only data, and " + RESUME),
    _symptom("wrong_weights", ["WeightsError", "the weights are not those of", "size mismatch for", "HeaderTooLarge",
                               r"Missing key\(s\)", "SafetensorError"],
             "weights or a checkpoint do not fit the model: {line}",
             "inv check --host {host}   # --set model=... for other weights"),
    _symptom("config", ["ConfigError", "training configuration:", "unknown training settings",
                        r"not a run's config\.json", "the run asks for num_processes",
                        "accelerate's configuration is not"],
             "the configuration is invalid: {line}", RESUME + " --set ..."),
    _symptom("collective_timeout", ["Watchdog caught collective operation timeout", "NCCL (?:error|timeout)",
                                    "nccl(?:System|Remote|UnhandledCuda)Error", r"Timed out waiting \d+ms",
                                    "DistBackendError", "Wait timeout"],
             "a collective timed out: the network between the GPUs, or a process that made no progress",
             LOGS + "   # for more: NCCL_DEBUG=INFO under [hosts.{host}.env]", restart=True),
    _symptom("crashed", [r"Signal (?:4|6|7|8|11) \(SIG\w+\) received", r"exitcode\s*: -(?:4|6|7|8|11)\b",
                         "Fatal Python error: (?:Segmentation|Bus|Aborted)"],
             "a library crashed; its stack is in the log", LOGS, restart=True),
    _symptom("killed", [r"Signal (?:9|2|1|3) \(SIG\w+\) received", r"exitcode\s*: -9\b",
                        r"died with <Signals\.SIGKILL", "killed by signal: Killed"],
             "a process of the run was killed from outside", RESUME, restart=True),
)


def filled(text: str, evidence: Evidence, line: Line | None = None) -> str:
    """Return the text with host, run and line filled in."""
    return (text.replace("{host}", evidence.host).replace("{run}", evidence.run_id)
            .replace("{line}", line.text.strip()[:300] if line else ""))
