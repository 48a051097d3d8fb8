"""Machine checks: workspace, permissions, clock, memory, CPUs, open files, shared memory."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from rdtops.checks import CheckResult
from rdtops.contract.config import TrainConfig
from rdtops.contract.models import EXISTING_FRAMES, MODELS
from rdtops.preflight.check import Answers, Check, Subject, last_line
from rdtops.ssh.command import quoted
from rdtops.ssh.probe import Output, Probe

CLOCK_SKEW_S = 60.0
MIB_PER_PROCESS = 3 * 1024  # Python, torch and a CUDA context
MIB_PER_WORKER = 400  # Python, torch and HDF5
MIB_PER_SAMPLE = 1.5  # six frames of 256 x 256 pixels and the rest of a sample
PREFETCHED = 2 + 1  # batches that a worker has ready, and the one in progress
NCCL_SHM_MIB = 64  # for each process
FILES_BESIDE_DATA = 256  # sockets, libraries, pipes of one process
_NEAREST = ('while [ ! -e "$d" ] && [ ! -h "$d" ]; do d=$(dirname "$d"); done; '
            'if [ -d "$d" ] && [ -w "$d" ] && [ -x "$d" ]; then echo "writable $d"; else echo "refused $d"; fi')
# of the whole machine, and of the container: cgroup v2, then v1
_MEMORY = ("grep -E '^(MemTotal|MemAvailable):' /proc/meminfo; for f in /sys/fs/cgroup/memory.max "
           "/sys/fs/cgroup/memory/memory.limit_in_bytes; do [ -r $f ] && echo \"limit $(cat $f)\" && break; done; :")
_CPUS = ("nproc; for f in /sys/fs/cgroup/cpu.max; do [ -r $f ] && echo \"quota $(cat $f)\"; done; "
         "q=/sys/fs/cgroup/cpu/cpu.cfs_quota_us; p=/sys/fs/cgroup/cpu/cpu.cfs_period_us; "
         "[ -r $q ] && [ -r $p ] && echo \"quota $(cat $q) $(cat $p)\"; :")


@dataclass(frozen=True)
class Memory:
    """MiB. In a container `total_mib` is its limit, and `available_mib` at most that."""

    total_mib: int
    available_mib: int


@dataclass(frozen=True)
class Folder:
    """A folder of rdtops on the host, and who can write to it."""

    path: str
    mode: int
    uid: int
    owner: str


# --- workspace ---

def nearest(folder: str) -> str:
    """Return a line of sh that finds the folder or its nearest existing parent."""
    return f"d={quoted(folder)}; {_NEAREST}"


def parse_nearest(output: Output) -> tuple[str, bool]:
    """Parse the nearest existing path, and whether it is a folder that this user can write to."""
    word, _, place = output.out.rstrip("\n").partition(" ")
    if word not in ("writable", "refused") or not place.startswith("/"):
        raise ValueError("unexpected answer")
    return place, word == "writable"


def judge_workspace(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    answer, workspace = answers["workspace"], subject.spec.workspace
    if answer.value is None:
        yield CheckResult.warn("workspace", "not known whether it is writable", answer.problem,
                               subject.there(f"ls -ld {quoted(workspace)}"))
        return
    place, is_writable = answer.value
    if is_writable:
        yield CheckResult.ok("workspace", f"{workspace} is writable")
    else:
        yield CheckResult.fail("workspace", f"{workspace} is not writable for this user",
                               f"{place} is not a folder that this user can write to",
                               f"edit workspace of [hosts.{subject.spec.host}] in hosts.toml: a folder of yours")


# --- permissions ---

def permissions(workspace: str) -> str:
    folders = " ".join(quoted(folder) for folder in (workspace, f"{workspace}/releases", f"{workspace}/runs"))
    return (f"echo \"uid $(id -u)\"; for f in {folders}; do "
            "[ ! -d \"$f\" ] || stat -L -c '%a %u %U %n' \"$f\" || exit; done")


def parse_permissions(output: Output) -> tuple[int, list[Folder]]:
    """Parse the user id, and the existing folders of the workspace."""
    if output.code != 0:
        raise ValueError("unexpected answer")
    first, *lines = output.out.splitlines()
    rows = [line.split(" ", 3) for line in lines]
    return int(first.removeprefix("uid ")), [Folder(path, int(mode, 8), int(uid), owner)
                                             for mode, uid, owner, path in rows]


def judge_permissions(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check that only this user and root can write to code that this user runs."""
    answer, workspace = answers["permissions"], subject.spec.workspace
    if answer.value is None:
        yield CheckResult.warn("permissions", "not known who can write to the workspace", answer.problem,
                               subject.there(f"ls -ld {quoted(workspace)}"))
        return
    uid, folders = answer.value
    foreign = [f for f in folders if f.uid not in (uid, 0)]
    of_everybody, of_a_group = ([f.path for f in folders if f.mode & bit] for bit in (stat.S_IWOTH, stat.S_IWGRP))
    evidence = ", ".join(f"{f.path}: {f.mode:04o}, of {f.owner}" for f in folders)
    if foreign:
        yield CheckResult.fail("permissions", f"{foreign[0].path} belongs to {foreign[0].owner}, who could change what "
                               "a training runs", evidence,
                               f"edit workspace of [hosts.{subject.spec.host}] in hosts.toml: a folder of yours")
    elif of_everybody:
        yield CheckResult.fail("permissions", f"{of_everybody[0]} is writable for every user of the host, who "
                               "could change what a training runs", evidence, _closed(subject, of_everybody))
    elif of_a_group:
        yield CheckResult.warn("permissions", f"{of_a_group[0]} is writable for a group", evidence,
                               _closed(subject, of_a_group))
    else:
        yield CheckResult.ok("permissions", "only this user can write to the workspace")


def _closed(subject: Subject, paths: list[str]) -> str:
    return subject.there("chmod go-w " + " ".join(quoted(path) for path in paths))


# --- clock ---

def parse_clock(output: Output) -> int:
    """Parse the host's Unix time in seconds."""
    return int(output.out.strip())


def judge_clock(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check the clock. The host read it between question and answer, so a slow probe is not a skew."""
    answer = answers["clock"]
    if answer.value is None:
        yield CheckResult.warn("clock", "cannot be read", answer.problem, subject.there("date"))
        return
    skew_s = min(0.0, answer.value + 1 - answers.begun_s) or max(0.0, answer.value - answers.ended_s)
    if abs(skew_s) > CLOCK_SKEW_S:
        yield CheckResult.warn("clock", f"the host's clock is {skew_s:+.0f} s off this laptop's",
                               "logs and status have the host's times, and TLS fails with a wrong clock",
                               "timedatectl   # on both: is NTP on?")
    else:
        yield CheckResult.ok("clock", f"differs from this laptop's by less than {CLOCK_SKEW_S:g} s")


# --- memory ---

def parse_memory(output: Output) -> Memory:
    rows = dict(line.split()[:2] for line in output.out.splitlines() if len(line.split()) >= 2)
    total, available = int(rows["MemTotal:"]) // 1024, int(rows["MemAvailable:"]) // 1024
    limit = int(rows["limit"]) >> 20 if rows.get("limit", "max").isdigit() else total
    return Memory(min(total, limit), min(available, limit))


def memory_needed_mib(train: TrainConfig) -> tuple[int, int]:
    """Return the memory for saving a checkpoint (rank 0 copies weights, EMA and Adam's moments), and the total."""
    save = MODELS[train.model].checkpoint_bytes >> 20
    per_process = MIB_PER_PROCESS if train.device == "cuda" else 1024
    each = per_process + train.loader_workers * MIB_PER_WORKER
    return save, save + train.num_processes * each


def judge_memory(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    answer, train = answers["memory"], subject.spec.train
    if answer.value is None:
        yield CheckResult.warn("memory", "cannot be read", answer.problem, subject.there("free -m"))
        return
    save, everything = memory_needed_mib(train)
    summary = (f"{_gib(answer.value.available_mib)} of {_gib(answer.value.total_mib)} available, about "
               f"{_gib(everything)} needed")
    evidence = (f"{_gib(save)} while a checkpoint is saved, the rest for {train.num_processes} processes with "
                f"{train.loader_workers} loader workers each")
    if answer.value.available_mib < save:
        yield CheckResult.fail("memory", f"{summary}: the first checkpoint would run out of memory", evidence,
                               subject.there("ps aux --sort=-rss | head"))
    elif answer.value.available_mib < everything:
        yield CheckResult.warn("memory", summary, evidence, subject.setting(
            f"loader_workers={train.loader_workers // 2}" if train.loader_workers > 1 else "num_processes=1"))
    else:
        yield CheckResult.ok("memory", summary, evidence)


# --- CPUs ---

def parse_cpus(output: Output) -> float:
    """Parse how many CPUs this user's processes can use: those of the affinity mask, at most the container's quota."""
    lines = output.out.splitlines()
    count = float(int(lines[0]))
    for line in lines[1:]:
        words = line.split()
        if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
            count = min(count, int(words[1]) / int(words[2]))
    return count


def judge_cpus(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check the CPUs. A process and its workers are not all busy at once, so one CPU for two of them suffices."""
    answer, train = answers["cpus"], subject.spec.train
    if answer.value is None:
        yield CheckResult.warn("cpus", "cannot be counted", answer.problem, subject.there("nproc"))
        return
    wanted = train.num_processes * (1 + train.loader_workers)
    summary = (f"{answer.value:g} CPUs for {train.num_processes} processes with {train.loader_workers} loader workers "
               "each")
    if wanted > 2 * answer.value:
        fewer = max(1, int(2 * answer.value / train.num_processes) - 1)
        remedy = (subject.setting(f"loader_workers={fewer}") if fewer < train.loader_workers
                  else subject.setting(f"num_processes={max(1, int(answer.value))}"))
        yield CheckResult.warn("cpus", f"{summary}: the GPUs may wait for data", remedy=remedy)
    else:
        yield CheckResult.ok("cpus", summary)


# --- open files ---

def parse_limit(output: Output) -> tuple[float, float]:
    """Parse the soft and hard limit of open files; infinity without a limit."""
    soft, hard = (float("inf") if word == "unlimited" else float(int(word)) for word in last_line(output).split())
    return soft, hard


def judge_open_files(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    answer, train = answers["open files"], subject.spec.train
    if answer.value is None:
        yield CheckResult.warn("open files", "the limit cannot be read", answer.problem, subject.there("ulimit -n"))
        return
    soft, hard = answer.value
    folder = answers["dataset"].value
    data = len(folder.sizes) if folder else 0
    needed = FILES_BESIDE_DATA + data + 16 * train.loader_workers  # a batch in flight is several shared files
    if soft < needed:
        yield CheckResult.warn("open files", f"a process may open {soft:g} files, about {needed} are needed",
                               f"the hard limit is {hard:g}",
                               subject.there(f'echo "$USER - nofile {max(4096, 2 * needed)}" | sudo tee -a '
                                             "/etc/security/limits.conf"))
    else:
        yield CheckResult.ok("open files", f"{soft:g} a process, about {needed} needed")


# --- shared memory ---

def parse_shm(output: Output) -> int:
    """Parse the free MiB of /dev/shm."""
    fields = last_line(output).split()
    if len(fields) < 4:
        raise ValueError("cannot parse the output of df")
    return int(fields[3])


def shm_needed_mib(train: TrainConfig) -> int:
    """Return the MiB of /dev/shm for the samples from loader workers to their process, and for NCCL between GPUs."""
    workers = train.num_processes * train.loader_workers
    nccl = NCCL_SHM_MIB * train.num_processes if train.device == "cuda" and train.num_processes > 1 else 0
    return int(workers * PREFETCHED * train.batch_size_per_process * (MIB_PER_SAMPLE + _features_mib(train))) + nccl


def _features_mib(train: TrainConfig) -> float:
    """Return the MiB of a sample's cached image tokens; half of the samples are augmented and have none."""
    model = MODELS[train.model]
    token_bytes = model.img_width * (4 if train.mixed_precision == "no" else 2)
    share = 0.0 if not train.vision_cache_gib else 0.5 if train.image_augmentation else 1.0
    return share * EXISTING_FRAMES * model.img_patches * token_bytes / 2**20


def judge_shm(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    answer, train = answers["shm"], subject.spec.train
    if answer.value is None:
        yield CheckResult.warn("shm", "cannot be read", answer.problem, subject.there("df -m /dev/shm"))
        return
    needed = shm_needed_mib(train)
    summary = (f"/dev/shm has {answer.value} MiB free, {needed} needed by "
               f"{train.num_processes * train.loader_workers} loader workers")
    if answer.value < needed:
        yield CheckResult.warn("shm", summary, "a full /dev/shm kills a worker with `Bus error`; containers often have "
                               "64 MiB of it", "start the container with --shm-size=8g, or: "
                               + subject.setting(f"loader_workers={train.loader_workers // 4}"))
    else:
        yield CheckResult.ok("shm", summary)


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


CHECKS = (
    Check("host", judge_workspace, lambda s: [Probe("workspace", nearest(s.spec.workspace), parse_nearest)]),
    Check("host", judge_permissions,
          lambda s: [Probe("permissions", permissions(s.spec.workspace), parse_permissions)]),
    Check("host", judge_clock, lambda _: [Probe("clock", "date +%s", parse_clock)]),
    Check("host", judge_memory, lambda _: [Probe("memory", _MEMORY, parse_memory)], of_the_trainer=True),
    Check("host", judge_cpus, lambda _: [Probe("cpus", _CPUS, parse_cpus)], of_the_trainer=True),
    Check("host", judge_open_files,
          lambda _: [Probe("open files", 'echo "$(ulimit -Sn) $(ulimit -Hn)"', parse_limit)], of_the_trainer=True),
    Check("host", judge_shm, lambda _: [Probe("shm", "LC_ALL=C df -mP /dev/shm", parse_shm)], of_the_trainer=True),
)
