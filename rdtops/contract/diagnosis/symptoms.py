"""Symptoms: the words by which a message shows a cause, with the remedy, and whether a restart may help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rdtops.contract.diagnosis.causes import LOGS, RESUME, Diagnosis, filled
from rdtops.contract.diagnosis.evidence import Evidence
from rdtops.contract.diagnosis.messages import Line


@dataclass(frozen=True)
class Symptom:
    """The words by which a message shows a cause. `summary` and `next` may contain {host}, {run} and {line}."""

    cause: str
    pattern: re.Pattern[str]
    summary: str
    next: str
    restart: bool

    def diagnosis(self, evidence: Evidence, lines: tuple[Line, ...]) -> Diagnosis:
        """Return the diagnosis that the lines show; the first one is quoted."""
        return Diagnosis(self.cause, filled(self.summary, evidence, lines[0]), lines, filled(self.next, evidence),
                         self.restart)


FREE_SOME = "inv check --host {host}   # names the folder; free some space, then " + RESUME
DEPLOY = "inv deploy --host {host}   # then " + RESUME
SEE_GPU = "inv gpu --host {host}; inv check --host {host}   # then " + RESUME


def _symptom(cause: str, words: Sequence[str], summary: str, following: str, *, restart: bool = False) -> Symptom:
    return Symptom(cause, re.compile("|".join(words)), summary, following, restart)


SYMPTOMS = (  # specific ones first: when a message shows two, the first is taken
    _symptom("not_finite", ["the loss is not finite", "the gradient is not", "non-finite (?:loss|gradient)",
                            "gradients .* is non-finite", "[Ll]oss is nan"],
             "the loss or the gradient is not finite; a restart would fail in the same way",
             RESUME + " --set learning_rate=...   # a lower one; inv replay shows the samples of the step"),
    _symptom("out_of_shared_memory", ["out of shared memory", "insufficient shared memory", "/shm/nccl-",
                                      "Unexpected bus error encountered in worker", "killed by signal: Bus error",
                                      r"shared memory ?\(shm\)", r"file </torch_\w+>.*No space left"],
             "/dev/shm is too small for the loader's workers or for NCCL",  # noqa: S108  # its name, nothing is written
             RESUME + " --set loader_workers=0   # or a larger /dev/shm: --shm-size of a container"),
    _symptom("too_many_files", ["Too many open files", r"\[Errno 24\]", "received 0 items of ancdata"],
             "the limit of open files was reached",
             "ssh {host} ulimit -n   # raise it: /etc/security/limits.conf; or fewer loader_workers; then " + RESUME,
             restart=True),
    _symptom("too_many_processes", ["can't start new thread", "pthread_create(?: failed|: Resource)", "fork: retry",
                                    "fork: Resource temporarily unavailable",
                                    r"\[Errno 11\] Resource temporarily unavailable$"],
             "the limit of processes and threads of the user, or of the container, was reached",
             "ssh {host} ulimit -u   # raise it, or end other processes of yours; then " + RESUME, restart=True),
    _symptom("disk_full", ["No space left on device", "Disk quota exceeded", "ENOSPC", r"\[Errno (?:28|122)\]"],
             "the disk is full: no space, no inodes or no quota left", FREE_SOME),
    _symptom("driver_replaced", ["Driver/library version mismatch", "LibRmVersionMismatch",
                                 "unsupported display driver / cuda driver combination"],
             "the driver on the disk was updated, the one in the kernel was not",
             "ssh {host} cat /proc/driver/nvidia/version   # its administrator reboots it; then " + RESUME),
    _symptom("fabric_manager", ["Error 802", "system not yet initialized", "cudaErrorSystemNotReady"],
             "the GPUs of this host work only with nvidia-fabricmanager, and it does not run",
             "ssh {host} systemctl status nvidia-fabricmanager   # its administrator starts it; then " + RESUME,
             restart=True),
    _symptom("gpu_busy", ["busy or unavailable"],
             "another process holds the GPU, whose compute mode allows one",
             "inv gpu --host {host}   # shows who uses it; then " + RESUME, restart=True),
    _symptom("gpu_lost", ["GPU has fallen off the bus", "GPU is lost", "device lost",
                          "[Uu]nable to determine the device handle", "no CUDA-capable device",
                          "No CUDA GPUs are available", "has no GPU: torch", "invalid device ordinal",
                          "Found no NVIDIA driver"],
             "a GPU is missing", SEE_GPU),
    _symptom("gpu_lost", ["uncorrectable (?:ECC|NVLink)", "NVML: (?:Driver|GPU)", "hardware stack error",
                          "CUDA error: (?:unspecified launch failure|unknown error|the launch timed out)",
                          "CUDA unknown error"],
             "a GPU failed during the training", SEE_GPU, restart=True),
    _symptom("crashed", ["an illegal memory access", "misaligned address", "illegal instruction was encountered",
                         "CU(?:BLAS|DNN)_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)"],
             "a CUDA kernel failed, as after an access to memory that is not its own: a library's error, or the GPU's",
             LOGS + "   # then inv gpu --host {host}", restart=True),
    _symptom("out_of_gpu_memory", ["CUDA out of memory", "out of GPU memory", "CUDA (?:driver )?error: out of memory",
                                   "CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED", "Failed to CUDA (?:calloc|malloc|host alloc)",
                                   "Cuda failure 2? ?'out of memory'", "cudaErrorMemoryAllocation"],
             "the GPU ran out of memory", RESUME + " --set batch_size_per_process=...   # half, and twice the "
             "gradient_accumulation_steps", restart=True),
    _symptom("oom_killer", [r"\boom[-_ ]kill", "[Oo]ut of memory: Killed process", "task \\S+: Out Of Memory"],
             "a process of the run was killed because memory, that of the host or of its job, ran out",
             "ssh {host} free -g   # what uses it; fewer loader_workers use less; then " + RESUME, restart=True),
    _symptom("out_of_host_memory", ["DefaultCPUAllocator: can't allocate", "[Cc]annot (?:allocate|assign) memory",
                                    r"\b_?(?:Array)?MemoryError\b", "no host memory for", "out of host memory",
                                    r"\[Errno 12\]", r"std::bad_alloc"],
             "the host could not allocate memory for the training",
             "ssh {host} free -g   # what uses it; then " + RESUME, restart=True),
    _symptom("environment", [r"CUDA driver version is insufficient", r"NVIDIA driver on your system is too old",
                             "no kernel image is available", "PTX was compiled with an unsupported toolchain",
                             "forward compatibility was attempted", "not compiled with CUDA enabled",
                             "cuDNN version incompatibility"],
             "torch and the GPU or its driver do not fit: {line}",
             "inv check --host {host}   # then a torch built for this driver and GPU, or a newer driver"),
    _symptom("environment", ["AttributeError: (?:partially initialized )?module '(?!rdtops)", "ModuleNotFoundError",
                             "ImportError", "No module named", "undefined symbol", "operator torchvision::nms",
                             "version `(?:GLIBC|CXXABI)", "DistributionNotFound",
                             "there is no (?:venv|conda environment)", "cannot open shared object file",
                             "command not found", "(?:sh|env|exec|nohup): .*(?:not found|No such file)",
                             r"execve\(\): ",
                             "is required for a normal functioning of this module",
                             "numpy.dtype size changed", "compiled using NumPy 1.x cannot be run",
                             "Descriptors cannot be created directly", "Not a conda environment"],
             "a package or library is missing or has the wrong version: {line}", "inv check --host {host}"),
    _symptom("environment", ["Failed to find C compiler", "InvalidCxxCompiler", r"Python\.h: No such file",
                             r"\b(?:gcc|g\+\+|cc|clang|nvcc|ninja|ptxas)'.*returned non-zero exit status",
                             r"No such file or directory: '(?:gcc|g\+\+|cc|nvcc|ninja|ptxas)'"],
             "torch.compile or an extension needs a C compiler and Python's headers: {line}",
             "ssh {host} cc --version   # its administrator installs gcc and python3-dev; then " + RESUME),
    _symptom("port_in_use", ["EADDRINUSE", "[Aa]ddress already in use", r"\[Errno 98\]|errno: 98",
                              "another process is utilizing it"],
             "the rendezvous port of the processes was in use", RESUME, restart=True),
    _symptom("file_locked", [r"unable to lock file, errno = (?:11|35)\b", "is locked by a program that has it open"],
             "another program has an HDF5 file open for writing: {line}",
             "ssh {host} lslocks   # shows who locks it; when that has ended: " + RESUME, restart=True),
    _symptom("file_locked", [r"unable to lock file, errno = ", "its file system has no locks", "No locks available",
                             r"\[Errno 37\]"],
             "the file system has no locks: {line}",
             RESUME + "   # with HDF5_USE_FILE_LOCKING = \"FALSE\" under [hosts.{host}.env]", restart=True),
    _symptom("file_system", ["Stale file handle", "Input/output error", "Transport endpoint is not connected",
                             "Remote I/O error", r"\[Errno (?:5|107|108|112|116|121)\]"],
             "the file system failed: {line}", "inv check --host {host}   # then " + RESUME, restart=True),
    _symptom("missing_asset", ["couldn't connect to 'https://huggingface.co'", "LocalEntryNotFoundError",
                               "OfflineModeIsEnabled", "is not a local folder and is not a valid model identifier"],
             "an encoder is not at the path in config.json, so transformers looked for it on the hub: {line}", DEPLOY),
    _symptom("tracker", [r"wandb\.(?:sdk|errors)\S*(?:Comm|Usage|Authentication|Mailbox)\w*Error",
                         "No API key configured", "api_key not configured"],
             "the tracker wants a login, or does not answer: {line}", RESUME + " --set tracker=off", restart=True),
    _symptom("no_network", ["Max retries exceeded", "[Nn]ame or service not known", "urlopen error",
                            "Temporary failure in name resolution", "Network is unreachable", "No route to host",
                            r"\[Errno (?:101|111|113)\]"],
             "a server could not be reached: {line}", "inv check --host {host}   # then " + RESUME, restart=True),
    _symptom("no_permission", ["PermissionError", "Permission denied", "Read-only file system",
                               r"\[Errno (?:1|13|30)\]"],
             "no permission to read or write a file or folder: {line}", "inv check --host {host}"),
    _symptom("missing_asset", [r"no \*\.hdf5 file", "names no folder for", "is no folder", r"\[Errno 20\]",
                               r"No such file or directory: '/(?!tmp/|var/tmp/|dev/|proc/|run/)",
                               r"[Uu]nable to (?:synchronously )?open file \(unable to open file: .*errno = 2\b"],
             "an asset is missing at the path in config.json: {line}", DEPLOY),
    _symptom("bad_sample", ["DataError", r"\.hdf5: demo_", "(?:Unable to|Can't) (?:synchronously )?(?:open|read|get)",
                            "file signature not found", "truncated file: eof", r"inflate\(\) failed"],
             "a sample of the dataset cannot be read: {line}",
             "inv check --host {host}   # where it says that the host's files are not yours: inv deploy --only data; "
             "then " + RESUME),
    _symptom("wrong_weights", ["WeightsError", "the weights are not those of", r"Error\(s\) in loading state_dict",
                               "size mismatch for", "[Hh]eader ?[Tt]oo ?[Ll]arge", r"Missing key\(s\)",
                               "SafetensorError", "Weights only load failed", "invalid load key",
                               "PytorchStreamReader failed", "is not a valid JSON file"],
             "weights or a checkpoint do not fit the model, or are damaged: {line}",
             "inv check --host {host}   # then inv deploy --only weights for damaged ones, --set model=... for others"),
    _symptom("config", ["Duplicate GPU detected"],
             "two ranks use one GPU: the run sees fewer GPUs than num_processes, or MIG shows a process only the first",
             "inv gpu --host {host}   # then " + RESUME + " --set num_processes=..."),
    _symptom("config", ["ConfigError", "training configuration:", "unknown training settings",
                        r"not a run's config\.json", "the run asks for num_processes",
                        "accelerate's configuration is not"],
             "the configuration is invalid: {line}", RESUME + " --set ..."),
    _symptom("timed_out", ["DUE TO TIME LIMIT", "PBS: job killed: walltime"], "its job reached the time limit", RESUME),
    _symptom("preempted", ["DUE TO PREEMPTION"], "its job was preempted", RESUME),
    _symptom("node_failed", ["DUE TO NODE FAILURE"], "a node of the cluster failed", RESUME, restart=True),
    _symptom("cancelled", [r"CANCELLED AT"], "its job was cancelled", RESUME),
    _symptom("collective_timeout", ["Watchdog caught collective operation timeout", "NCCL communicator was aborted",
                                    "NCCL (?:[Ee]rror|timeout|operations)", "[Hh]eartbeat monitor", "gloo/transport",
                                    "nccl(?:System|Remote|Internal|UnhandledCuda)Error", "Wait timeout",
                                    r"Timed out (?:waiting|after) \d+", "Dist(?:Backend|Store|Network)Error",
                                    "Rendezvous(?:Timeout|Connection|Closed)Error", "client socket has timed out",
                                    "Socket Timeout", "Connection closed by peer", "sendBytes failed",
                                    "lost contact with the other processes"],
             "a collective timed out: the network between the GPUs, or a process that made no progress",
             LOGS + "   # for more: NCCL_DEBUG=INFO under [hosts.{host}.env]", restart=True),
    _symptom("killed", ["ConnectionResetError", "BrokenPipeError",
                        "killed by signal: (?:Killed|Terminated|Hangup|Interrupt)"],
             "a process of the run was ended from outside, or ended without a word", RESUME, restart=True),
    _symptom("crashed", ["killed by signal: ", "exited unexpectedly", "Unexpected .* encountered in worker"],
             "a process of the loader or one of its libraries crashed: {line}",
             RESUME + " --set loader_workers=0   # shows the error itself", restart=True),
)
BY_TYPE = {  # type of an exception -> cause, where its message says nothing more specific
    "DataError": "bad_sample", "WeightsError": "wrong_weights", "ConfigError": "config",
    "ImportError": "environment", "ModuleNotFoundError": "environment", "PermissionError": "no_permission",
    "MemoryError": "out_of_host_memory", "OutOfMemoryError": "out_of_gpu_memory"}
EXPLAINED_BY = {  # a cause that says only how it ended -> those that may be the reason, where a message shows one
    "collective_timeout": ("out_of_shared_memory", "out_of_gpu_memory", "out_of_host_memory", "too_many_files",
                           "oom_killer"),
    "crashed": ("out_of_shared_memory", "out_of_host_memory", "too_many_processes", "too_many_files"),
    "killed": ("oom_killer", "out_of_host_memory", "timed_out", "preempted", "cancelled", "node_failed"),
}


def symptom_of(text: str, exception: str = "") -> Symptom | None:
    """Return the symptom that a message, or an exception of that type, shows."""
    by_type = BY_TYPE.get(exception)
    return (next((symptom for symptom in SYMPTOMS if symptom.pattern.search(text)), None)
            or next((symptom for symptom in SYMPTOMS if symptom.cause == by_type), None))
