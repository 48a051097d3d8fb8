"""Plants: the causes that `inv drill why` injects into real trainings, and how.

What is possible on this machine is done for real: limits of the kernel, signals, full disks, damaged files, missing
packages. Where a GPU is needed, recorded messages of PyTorch are raised inside the real training, and appear in its
real log, Journal and exit codes; `how` says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rdtops.contract.run import RunSpec
from rdtops.hostlib.processes import Process
from rdtops.ssh.hosts import Environment, Host

if TYPE_CHECKING:
    from proofs.drills.why_drill import Planted

CGROUP = Path("/sys/fs/cgroup/memory")
RECORDED = "recorded words"
Change = Callable[["Planted"], object]


@dataclass(frozen=True)
class Plant:
    """One cause. `source` is Python that changes the trainer before it begins; `act` is called at step `at_step`."""

    cause: str
    how: str
    settings: tuple[str, ...] = ()
    source: str = ""
    host: Callable[[Host], Host] = lambda host: host
    assets: Callable[[Mapping[str, str], Path], Mapping[str, str]] = lambda assets, _: assets
    before: Change = lambda _: None  # called when the run folder is prepared
    script: Callable[[str, RunSpec], str] = lambda text, _: text
    at_step: int = 0
    act: Change = lambda _: None
    runs_on: bool = False  # diagnosed while it runs
    possible: Callable[[], bool] = lambda: True


def plants() -> list[Plant]:
    """Yield the causes that are possible on this machine."""
    return [plant for plant in (*_well(), *_memory(), *_devices(), *_data(), *_set_up(), *_ends(), *_slow())
            if plant.possible()]


def _well() -> Iterator[Plant]:
    yield Plant("finished", "undisturbed")
    yield Plant("healthy", "undisturbed, diagnosed while it runs", LONG, at_step=10, runs_on=True)
    yield Plant("stopped", "inv stop", LONG, at_step=3, act=lambda run: run.stop())
    yield Plant("time_limit", "SIGUSR1 to its ranks", LONG, at_step=3,
                act=lambda run: _send(run.ranks(), signal.SIGUSR1))


def _memory() -> Iterator[Plant]:
    alone = ("batch_size_per_process=1", "gradient_checkpointing=true")  # nothing is left to give
    yield Plant("out_of_gpu_memory", RECORDED, alone, _raised(
        'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 '
        'GiB of which 1.05 GiB is free.")'))
    yield Plant("model_too_big", RECORDED, alone, _replaced(
        "train.Training", "_place", 'raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.89 GiB.")'))
    yield Plant("out_of_host_memory", "RLIMIT_DATA, 1000 draws of a sample in 20 MiB, and no smaller batch to try",
                ("batch_size_per_process=1", "noise_draws_per_sample=1000", "gradient_checkpointing=true"), LIMITED)
    yield Plant("oom_killer", "a memory cgroup of 300 MB", script=_in_small_cgroup, possible=_has_cgroup)
    yield Plant("out_of_shared_memory", RECORDED, source=_raised(
        'RuntimeError("DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader\'s '
        'workers are out of shared memory. Please try to raise your shared memory limit.")'))


def _devices() -> Iterator[Plant]:
    yield Plant("gpu_lost", RECORDED, source=_raised('RuntimeError("CUDA error: unspecified launch failure")'))
    yield Plant("collective_timeout", "rank 1 stands still, gloo waits 5 s", TWO, STANDS_STILL)
    yield Plant("stuck", "SIGSTOP to rank 1", (*TWO, *LONG), at_step=5, host=_impatient,
                act=lambda run: _send(run.ranks()[1:], signal.SIGSTOP))
    yield Plant("disk_full", "checkpoints on a tmpfs of 1 MB", (*LONG, "checkpoint_every_steps=5"),
                before=lambda run: run.mount_small_disk(), at_step=12, runs_on=True, possible=lambda: os.geteuid() == 0)
    yield Plant("disk_full", RECORDED, source=_replaced(
        "inputs", "find", 'raise OSError(28, "No space left on device", "/data/runs/statistics.json")'))


def _data() -> Iterator[Plant]:
    yield Plant("bad_sample", "a recording with 256 kB of it overwritten", assets=_damaged)
    yield Plant("missing_asset", "the dataset's folder has another name", assets=lambda assets, _: {
        **assets, "dataset": assets["dataset"] + "-renamed"})
    yield Plant("wrong_weights", "weights of another model", ("model=small",))
    yield Plant("not_finite", "a learning rate of 1e30", ("learning_rate=1e30", "warmup_steps=0", *LONG))


def _set_up() -> Iterator[Plant]:
    yield Plant("environment", "h5py cannot be imported", before=lambda run: run.plant(
        "h5py", 'raise ImportError("libhdf5.so.310: cannot open shared object file: No such file or directory")\n'))
    yield Plant("environment", "a venv that is not there",
                host=lambda host: replace(host, environment=Environment(venv="/nowhere/venv")))
    yield Plant("config", "config.json was edited: model = big", before=lambda run: run.edit_config("tiny", "big"))
    yield Plant("config", "launch.sh was edited: one process", TWO, script=lambda text, _: text.replace(
        "--num_processes 2", "--num_processes 1").replace("--multi_gpu ", "--cpu "))
    yield Plant("port_in_use", RECORDED, source=_replaced(  # the launcher takes a free one
        "ranks.Ranks", "join", 'raise RuntimeError("The server socket has failed to listen on any local network '
        'address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use")'))
    yield Plant("no_permission", RECORDED, source=_replaced(
        "inputs", "find", 'raise PermissionError(13, "Permission denied", "/data/t5-v1_1-xxl/config.json")'))


def _ends() -> Iterator[Plant]:
    yield Plant("killed", "SIGKILL to rank 1", (*TWO, *LONG), at_step=3,
                act=lambda run: _send(run.ranks()[1:], signal.SIGKILL))
    yield Plant("crashed", "SIGSEGV to the trainer", LONG, at_step=3,
                act=lambda run: _send(run.ranks(), signal.SIGSEGV))
    yield Plant("lost", "SIGKILL to every process", LONG, at_step=3,
                act=lambda run: _send(run.members(), signal.SIGKILL))
    yield Plant("rebooted", "the same, and another boot id", LONG, at_step=3, act=_rebooted)
    yield Plant("bug", "a ZeroDivisionError in a step", source=_raised('ZeroDivisionError("division by zero")'))


def _slow() -> Iterator[Plant]:
    yield Plant("slow_data", "each frame is read 50 ms later", LONG, _slowed("libero.Frames", "read", "0.05"),
                at_step=8, runs_on=True)
    yield Plant("slow_checkpoints", "each save takes 1 s", (*LONG, "checkpoint_every_steps=1", "heldout_share=0"),
                _slowed("checkpoint", "save", "1"), at_step=8, runs_on=True)
    yield Plant("slow_rank", "rank 1 takes 0.5 s longer", (*TWO, *LONG),
                _slowed("train.Training", "_loss", '0.5 * (os.environ["RANK"] == "1")'), at_step=8, runs_on=True)
    yield Plant("shared_gpu", "another process in the lab's nvidia-smi", LONG, at_step=5,
                act=lambda run: run.share_gpu(), runs_on=True)


TWO, LONG = ("num_processes=2",), ("max_steps=5000", "checkpoint_every_steps=5000")
LIMITED = """
import re, resource
run = train.Training.run
def limited(training):
    kilobytes = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
    resource.setrlimit(resource.RLIMIT_DATA, (kilobytes * 1024 + (20 << 20),) * 2)
    return run(training)
train.Training.run = limited
"""
STANDS_STILL = """
from datetime import timedelta
ranks.TIMEOUT = timedelta(seconds=5)
step = train.Training._step
def stands_still(training, number, data):
    time.sleep(20 if number == 3 and training.ranks.rank == 1 else 0)
    return step(training, number, data)
train.Training._step = stands_still
"""


def _raised(error: str) -> str:
    """Return source that raises the error in the third step."""
    return (f"step = train.Training._step\ndef failing(training, number, data):\n    if number == 3:\n"
            f"        raise {error}\n    return step(training, number, data)\ntrain.Training._step = failing\n")


def _replaced(owner: str, name: str, body: str) -> str:
    return f"def planted(*_):\n    {body}\n{owner}.{name} = planted\n"


def _slowed(owner: str, name: str, seconds: str) -> str:
    return (f"quick = {owner}.{name}\ndef slow(*given):\n    time.sleep({seconds})\n    return quick(*given)\n"
            f"{owner}.{name} = slow\n")


def _send(members: list[Process], number: signal.Signals) -> None:
    for member in members:
        member.send(number)


def _impatient(host: Host) -> Host:
    return replace(host, recovery=replace(host.recovery, stuck_floor_s=5.0, stuck_times=3.0))


def _damaged(assets: Mapping[str, str], folder: Path) -> Mapping[str, str]:
    """Copy the recording, and overwrite half of its images."""
    copy = Path(shutil.copytree(assets["dataset"], folder / "damaged", dirs_exist_ok=True))
    for path in copy.glob("*.hdf5"):
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xff" * min(256_000, path.stat().st_size // 4))
    return {**assets, "dataset": str(copy)}


def _has_cgroup() -> bool:
    return (CGROUP / "memory.limit_in_bytes").exists() and os.access(CGROUP, os.W_OK)


def _in_small_cgroup(text: str, spec: RunSpec) -> str:
    group = CGROUP / spec.run_id
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("300000000")
    return text.replace("starts=0\n", f"echo $$ > {group}/cgroup.procs\nstarts=0\n")


def _rebooted(run: Planted) -> None:
    _send(run.members(), signal.SIGKILL)
    process = Path(run.spec.paths.process)
    process.write_text(" ".join([*process.read_text().split()[:2], "another-boot"]) + "\n")


@contextmanager
def cleared(spec: RunSpec) -> Iterator[None]:
    """Remove what a plant leaves on the machine."""
    try:
        yield
    finally:
        if Path(spec.paths.checkpoints).is_mount():
            subprocess.run(["umount", "-l", str(spec.paths.checkpoints)], check=True)
        if (CGROUP / spec.run_id).exists():
            (CGROUP / spec.run_id).rmdir()
