"""Causes: their names, the words by which logs and Journals show them, what helps, and whether a restart can."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdtops.contract.diagnosis.evidence import Evidence, Line

RESUME = "inv train --host {host} --resume {run}"
LOGS = "inv logs --host {host} --run {run} --lines 200"


@dataclass(frozen=True)
class Diagnosis:
    cause: str  # one of CAUSES
    summary: str
    lines: tuple[Line, ...]  # the evidence
    next: str  # the command to type
    restart: bool = False  # the supervisor may start it again as it is

    @property
    def passed(self) -> bool:
        """Nothing is wrong: it runs well, or has ended as it should."""
        return self.cause in ("healthy", "finished", "stopped", "time_limit", "prepared", "queued", "cancelled")


@dataclass(frozen=True)
class Symptom:
    """Words that show a cause. `summary` and `next` may name host, run and the groups of the pattern."""

    cause: str
    pattern: re.Pattern[str]
    summary: str
    next: str
    restart: bool

    def seen_in(self, lines: Iterable[Line]) -> tuple[Line, re.Match[str]] | None:
        """The first line with the words."""
        for line in lines:
            if found := self.pattern.search(line.text):
                return line, found
        return None


CAUSES = {  # name -> what it means
    "healthy": "it trains, and nothing slows it that could be told from outside",
    "finished": "it has done all its steps",
    "prepared": "it was never launched",
    "stopped": "somebody asked for the end: `inv stop`, or a signal",
    "time_limit": "SIGUSR1, as a scheduler sends it before its limit",
    "queued": "it waits for its turn in a cluster",
    "held": "somebody holds it in the queue of a cluster",
    "cancelled": "somebody took it off a cluster",
    "preempted": "a cluster needed its nodes for something else, and did not queue it again",
    "timed_out": "it ran into the time limit of a cluster, and was not queued again",
    "node_failed": "a machine of a cluster failed",
    "not_started": "a cluster could not run its script",
    "forgotten": "it ended, and the cluster no longer knows how",
    "scheduler_silent": "a cluster's scheduler does not answer",
    "out_of_gpu_memory": "CUDA out of memory",
    "model_too_big": "the memory does not even hold the weights and their moments",
    "out_of_host_memory": "the host refused memory to the training",
    "out_of_shared_memory": "the loader's workers have no room to hand over their batches",
    "oom_killer": "the kernel killed a process of it because memory ran out",
    "killed": "a signal that nobody can catch, from outside",
    "crashed": "a library crashed: SIGSEGV, SIGBUS, SIGABRT",
    "not_finite": "a loss or a gradient is not a finite number",
    "disk_full": "no space, no inodes or no quota left",
    "gpu_lost": "a GPU failed or is gone",
    "collective_timeout": "the processes waited for one another too long: NCCL or gloo",
    "stuck": "a rank does not go on, and the others wait for it",
    "bad_sample": "a sample of the dataset cannot be read",
    "missing_asset": "data, weights or an encoder are not where config.json says",
    "wrong_weights": "weights or a checkpoint are damaged or of another model",
    "environment": "Python, a package or a library is missing or of the wrong version",
    "config": "the configuration makes no sense",
    "port_in_use": "the port for the processes to meet was taken",
    "no_permission": "a file or folder may not be read or written",
    "rebooted": "the host was started anew",
    "lost": "every process of it is gone, and nobody wrote why",
    "bug": "an error that has no name here",
    "slow_data": "steps wait for samples",
    "slow_checkpoints": "steps wait for the disk that takes the checkpoints",
    "slow_rank": "the processes wait for the slowest of them",
    "shared_gpu": "somebody else's process is on a GPU of the run",
    "throttled_gpu": "a GPU runs below its clock: heat or power",
}

FREE_SOME = "inv check --host {host}   # names the folder; free some, then " + RESUME
DEPLOY = "inv deploy --host {host}   # then " + RESUME
SEE_GPU = "inv gpu --host {host}; inv check --host {host}   # then " + RESUME


def _symptom(cause: str, words: Sequence[str], summary: str, following: str, *, restart: bool = False) -> Symptom:
    return Symptom(cause, re.compile("|".join(words)), summary, following, restart)


SYMPTOMS = (  # the more specific first: of one line that shows two, the first counts
    _symptom("not_finite", ["the loss is not finite", "the gradient is not", "non-finite", "[Ll]oss is nan"],
             "the loss or the gradient stopped being a finite number; a restart would meet it again",
             RESUME + " --set learning_rate=...   # a lower one; inv replay shows the samples of the step"),
    _symptom("out_of_shared_memory", ["out of shared memory", "Unexpected bus error encountered in worker",
                                      r"worker \(pid.*killed by signal: Bus error"],
             "/dev/shm is too small for the loader's workers",  # noqa: S108  # its name, nothing is written there
             RESUME + " --set loader_workers=0   # or a larger /dev/shm"),
    _symptom("disk_full", ["No space left on device", "Disk quota exceeded", "ENOSPC", r"\[Errno (?:28|122)\]"],
             "the disk is full: no space, no inodes or no quota left", FREE_SOME),
    _symptom("gpu_lost", ["GPU has fallen off the bus", "device lost", "[Uu]nable to determine the device handle",
                          "no CUDA-capable device", "No CUDA GPUs are available", "has no GPU: torch"],
             "a GPU is gone", SEE_GPU),
    _symptom("gpu_lost", ["uncorrectable ECC", "NVML: (?:Driver|GPU)",
                          "CUDA error: (?:unspecified launch failure|unknown error|the launch timed out)",
                          "CUDA error: (?:an illegal memory access|hardware stack error)"],
             "a GPU failed in the middle of its work", SEE_GPU, restart=True),
    _symptom("out_of_gpu_memory", ["CUDA out of memory", "out of GPU memory", "CUDA error: out of memory",
                                   "CUBLAS_STATUS_ALLOC_FAILED"],
             "the GPU's memory did not suffice", RESUME + " --set batch_size_per_process=...   # half, and twice the "
             "gradient_accumulation_steps", restart=True),
    _symptom("out_of_host_memory", ["DefaultCPUAllocator: can't allocate", "[Cc]annot allocate memory", "MemoryError",
                                    "no host memory for", "out of host memory", r"\[Errno 12\]"],
             "the host refused memory to the training", "ssh {host} free -g   # what takes it; then " + RESUME,
             restart=True),
    _symptom("environment", ["ModuleNotFoundError", "ImportError", "No module named", "undefined symbol",
                             "version `GLIBC", "DistributionNotFound", "there is no (?:venv|conda environment)",
                             "cannot open shared object file", "command not found", "(?:sh|env|exec): .*not found",
                             "is required for a normal functioning of this module", "driver version is insufficient"],
             "the environment lacks something, or has it in the wrong version: {line}", "inv check --host {host}"),
    _symptom("port_in_use", ["EADDRINUSE", "[Aa]ddress already in use", "errno: 98",
                              "another process is utilizing it"],
             "the port on which the processes meet was taken", RESUME, restart=True),
    _symptom("no_permission", ["PermissionError", "Permission denied", "Read-only file system",
                               r"\[Errno (?:13|30)\]"],
             "a file or folder may not be read or written: {line}", "inv check --host {host}"),
    _symptom("missing_asset", [r"no \*\.hdf5 file", "names no folder for", "No such file or directory",
                               "FileNotFoundError", "is no folder", "does not exist", "not a directory"],
             "an asset is not where config.json says: {line}", DEPLOY),
    _symptom("bad_sample", ["DataError", r"\.hdf5: demo_", "[Uu]nable to (?:synchronously )?(?:open|read)",
                            "file signature not found", "truncated file", r"inflate\(\) failed"],
             "a sample of the dataset cannot be read: {line}",
             "inv check --host {host}   # then inv deploy --only data, and " + RESUME),
    _symptom("wrong_weights", ["WeightsError", "the weights are not those of", "size mismatch for", "HeaderTooLarge",
                               r"Missing key\(s\)", "SafetensorError"],
             "weights or a checkpoint do not fit: {line}",
             "inv check --host {host}   # --set model=... for other weights"),
    _symptom("config", ["ConfigError", "training configuration:", "unknown training settings",
                        r"not a run's config\.json", "the run asks for num_processes",
                        "accelerate's configuration is not"],
             "the configuration makes no sense: {line}", RESUME + " --set ..."),
    _symptom("collective_timeout", ["Watchdog caught collective operation timeout", "NCCL (?:error|timeout)",
                                    "nccl(?:System|Remote|UnhandledCuda)Error", r"Timed out waiting \d+ms",
                                    "DistBackendError", "Wait timeout"],
             "the processes waited for one another too long: the network between the GPUs, or one that stood still",
             LOGS + "   # NCCL_DEBUG=INFO among the host's env says more", restart=True),
    _symptom("crashed", [r"Signal (?:4|6|7|8|11) \(SIG\w+\) received", r"exitcode\s*: -(?:4|6|7|8|11)\b",
                         "Fatal Python error: (?:Segmentation|Bus|Aborted)"],
             "a library crashed; its stack is in the log", LOGS, restart=True),
    _symptom("killed", [r"Signal (?:9|2|1|3) \(SIG\w+\) received", r"exitcode\s*: -9\b",
                        r"died with <Signals\.SIGKILL", "killed by signal: Killed"],
             "a process of the run was killed from outside", RESUME, restart=True),
)


def filled(text: str, evidence: Evidence, line: Line | None = None) -> str:
    """With host, run and the line put in."""
    return (text.replace("{host}", evidence.host).replace("{run}", evidence.run_id)
            .replace("{line}", line.text.strip()[:300] if line else ""))
