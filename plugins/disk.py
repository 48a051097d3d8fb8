"""Check that the checkpoints of this configuration fit on the disk and into the quota, and the speed of the disk."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.api import (
    MODELS,
    Answer,
    CheckResult,
    Command,
    Connection,
    Host,
    Option,
    Output,
    Probe,
    RunSpec,
    ask,
    fields,
    hookimpl,
)

OPTIONS = {"min_free_gb": Option(float, "GB that must be free, whatever the forecast", default=0.0,
                                 least=0)}
RESERVE = 0.2  # fraction of the forecast
INODES_NEEDED = 1000
EVAL_BYTES = 200_000_000  # videos of an evaluation: 20 episodes of 400 frames, 256 x 256, with room
SLOW_SAVE_S = 600.0  # a checkpoint that takes longer to write than this
TRIAL_MIB = 64
# Writes into a file without a name, so that nothing is left behind; where the file system has no such files (NFS,
# Lustre), into one whose name is removed before the first byte. Random data, since some disks compress.
_TRIAL = """\
import json, os, sys, tempfile, time
folder, mib = sys.argv[1], int(sys.argv[2])
there = os.statvfs(folder)
if there.f_bavail * there.f_frsize < 16 * mib << 20:  # a nearly full disk is not tested
    print(json.dumps({'mib': 0, 'seconds': 0}))
    sys.exit()
try:
    fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
except (OSError, AttributeError):
    fd, name = tempfile.mkstemp(prefix='.rdtops-trial-', dir=folder)
    os.unlink(name)
block, done, begun = os.urandom(1 << 20), 0, time.monotonic()
while done < mib and time.monotonic() - begun < 5:
    os.write(fd, block)
    done += 1
os.fsync(fd)
print(json.dumps({'mib': done, 'seconds': time.monotonic() - begun}))
"""
_DF = re.compile(r".+?\s(?P<total>\d+|-)\s+(\d+|-)\s+(?P<free>-?\d+|-)\s+(\d+%|-)\s+(?P<mount>/.*)")


@dataclass(frozen=True)
class Space:
    mounted_on: str
    free_kib: int


@dataclass(frozen=True)
class Quota:
    """Used and allowed KiB and files of this user on one file system; a limit of 0 is none."""

    filesystem: str
    used_kib: int
    limit_kib: int
    files: int
    files_limit: int


def parse_df(output: Output) -> Space:
    """Parse the last line of `df -kP`. Raises ValueError for any other output."""
    _, free, mounted_on = _columns(output)
    if free == "-":
        raise ValueError("df does not report free blocks")
    return Space(mounted_on, max(0, int(free)))  # below 0 when root's reserve is in use


def parse_inodes(output: Output) -> int | None:
    """Parse free inodes; None on file systems without a count (btrfs and some network disks print - or 0 of 0)."""
    total, free, _ = _columns(output)
    return int(free) if free.isdigit() and total not in ("0", "-") else None


def _columns(output: Output) -> tuple[str, str, str]:
    """Return total, available and mount point of the last line of df -P; device and mount point may have spaces."""
    lines = [line for line in output.out.splitlines() if line.strip()]
    row = _DF.fullmatch(lines[-1][:1000].strip()) if len(lines) > 1 else None
    if output.code != 0 or row is None:
        raise ValueError("cannot parse the output of df")
    return row["total"], row["free"], row["mount"]


def parse_mounts(output: Output) -> dict[str, frozenset[str]]:
    """Parse /proc/self/mounts: mount point -> its options. A later line of a mount point replaces an earlier one."""
    rows = (line.split(" ") for line in output.out.splitlines())
    return {_unescaped(row[1]): frozenset(row[3].split(",")) for row in rows if len(row) >= 4}


def parse_quota(output: Output) -> tuple[Quota, ...]:
    """Parse `quota -w` or `lfs quota`: the file systems with a quota. Raises ValueError for any other output. The lower
    of the two limits is used: above the soft one only days are left."""
    if not output.out.strip() and output.code == 0:
        return ()
    text = output.out
    if "quota" not in text.lower() or output.code not in (0, 1):
        raise ValueError("cannot parse the quota")
    rows = re.findall(r"^ *(\S+)\s+(\d+)\*?\s+(\d+)\s+(\d+)\s+(?:[\w:.]+\s+|-\s+)?(\d+)\*?\s+(\d+)\s+(\d+)", text,
                      re.MULTILINE)
    found = [Quota(name, int(used), _lower(soft, hard), int(files), _lower(files_soft, files_hard))
             for name, used, soft, hard, files, files_soft, files_hard in rows]
    if not found and not re.search(r": none\s*$|has no quota enabled", text):
        raise ValueError("cannot parse the quota")
    return tuple(found)


def parse_trial(output: Output) -> float:
    """Parse bytes per second, including fsync."""
    if output.code != 0:
        raise ValueError(output.err.strip().rpartition("\n")[2][-200:] or "nothing could be written")
    facts = fields.loads(output.out.strip().rpartition("\n")[2])
    return float(facts["mib"] * (1 << 20) / max(float(facts["seconds"]), 1e-6))


def probes(host: Host, folder: str) -> list[Probe[Any]]:
    """Return the probes of the file system of a folder, or of its nearest existing parent."""
    nearest = f'd={Command(folder).shell()}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; '
    quota = ("if command -v lfs >/dev/null && lfs quota -u \"$(id -un)\" \"$d\" 2>/dev/null; then :; "
             "elif command -v quota >/dev/null; then LC_ALL=C quota -w -f \"$(df -P \"$d\" | awk 'END {print $NF}')\" "
             "2>&1; else echo 'no quota program' >&2; exit 127; fi")
    return [Probe("space", f'{nearest}LC_ALL=C df -kP "$d"', parse_df, timeout_s=15),
            Probe("inodes", f'{nearest}LC_ALL=C df -iP "$d"', parse_inodes, timeout_s=15),
            Probe("mounts", "cat /proc/self/mounts", parse_mounts, timeout_s=15),
            Probe("quota", nearest + quota, parse_quota, timeout_s=15),
            Probe("trial", f'{nearest}{Command(host.python, "-c", _TRIAL).shell()} "$d" {TRIAL_MIB}', parse_trial,
                  timeout_s=30)]


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec, options: Mapping[str, Any]) -> list[CheckResult]:
    answers = ask(connection, probes(host, f"{spec.workspace}/runs"))  # it may be a link to another disk
    space: Space | None = answers["space"].value
    if space is None:
        return [CheckResult.warn("disk", "the free space is not known", answers["space"].problem,
                                 f"df -h {Command(spec.workspace).shell()}   # on {host.name}")]
    if "ro" in (answers["mounts"].value or {}).get(space.mounted_on, ()):
        return [CheckResult.fail("disk", f"{space.mounted_on} is mounted read-only", spec.workspace,
                                 f"sudo dmesg | tail   # on {host.name}: often a disk fault")]
    return [judged(space, forecast_bytes(spec), options["min_free_gb"], spec),
            _inodes(host, space, answers["inodes"]), _quota(host, answers["quota"], forecast_bytes(spec)),
            _speed(host, answers["trial"], spec)]


def _inodes(host: Host, space: Space, answer: Answer[int | None]) -> CheckResult:
    if answer.value is None:
        return CheckResult.skip("disk inodes", f"{space.mounted_on} does not count them", answer.problem)
    if answer.value < INODES_NEEDED:
        return CheckResult.fail(
            "disk inodes", f"{answer.value} inodes free on {space.mounted_on}, {INODES_NEEDED} needed", "",
            f"du -x --inodes {Command(space.mounted_on).shell()} | sort -n | tail   # on {host.name}: where they are")
    return CheckResult.ok("disk inodes", f"{answer.value} free on {space.mounted_on}")


def _quota(host: Host, answer: Answer[tuple[Quota, ...]], needed_bytes: int) -> CheckResult:
    if answer.value is None:
        why = "there is no quota program" if answer.output.code == 127 else "its output cannot be parsed"
        return CheckResult.skip("disk quota", f"not checked: {why}", answer.problem)
    for quota in answer.value:
        left = (quota.limit_kib - quota.used_kib) * 1024
        if quota.limit_kib and left < needed_bytes:
            return CheckResult.fail(
                "disk quota", f"{max(left, 0) / 1e9:.1f} GB left of your quota on {quota.filesystem}, "
                f"{needed_bytes / 1e9:.2f} GB needed", f"{quota.used_kib} of {quota.limit_kib} KiB are used",
                f"du -xh -d 2 ~ | sort -h | tail   # on {host.name}; or another workspace in hosts.toml")
        if quota.files_limit and quota.files_limit - quota.files < INODES_NEEDED:
            return CheckResult.fail(
                "disk quota", f"{quota.files} of the {quota.files_limit} files of your quota are used",
                "", f"du -x --inodes -d 2 ~ | sort -n | tail   # on {host.name}: where the many files are")
    return CheckResult.ok("disk quota", "; ".join(
        f"{q.used_kib / 1e6:.1f} of {q.limit_kib / 1e6:.1f} GB on {q.filesystem}" for q in answer.value if q.limit_kib)
        or "none on this file system")


def _speed(host: Host, answer: Answer[float], spec: RunSpec) -> CheckResult:
    """Judge a short write with fsync. A training continues while a checkpoint is written, but not past the next one."""
    if answer.value is None:
        problem = answer.problem
        if "PermissionError" in problem:
            return CheckResult.skip("disk speed", "not measured: this user cannot write to the folder", problem)
        return CheckResult.fail("disk speed", f"{TRIAL_MIB} MiB cannot be written", problem,
                                f"df -h {Command(spec.workspace).shell()}; sudo dmesg | tail   # on {host.name}")
    if not answer.value:
        return CheckResult.skip("disk speed", "not measured: too little space is free")
    each_s = MODELS[spec.train.model].checkpoint_bytes / answer.value
    summary = f"{answer.value / 1e6:.0f} MB/s with fsync: a checkpoint takes {each_s:.0f} s"
    if each_s > SLOW_SAVE_S:
        return CheckResult.warn("disk speed", f"{summary}, a slow disk", f"measured with {TRIAL_MIB} MiB",
                                f"inv train --host {host.name} --set checkpoint_every_steps="
                                f"{2 * spec.train.checkpoint_every_steps}   # or a workspace on a faster disk")
    return CheckResult.ok("disk speed", summary)


def forecast_bytes(spec: RunSpec) -> int:
    """Return the size of all checkpoints kept at once, one being written included, and of an evaluation's videos."""
    return _checkpoints(spec) * MODELS[spec.train.model].checkpoint_bytes + EVAL_BYTES


def judged(space: Space, needed_bytes: int, min_free_gb: float, spec: RunSpec) -> CheckResult:
    free, needed = space.free_kib * 1024, max(needed_bytes, int(min_free_gb * 1e9))
    each_gb = MODELS[spec.train.model].checkpoint_bytes / 1e9
    evidence = (f"{_checkpoints(spec)} checkpoints of {each_gb:.2f} GB at once ({_checkpoints(spec) - 1} kept, one "
                f"being written), {EVAL_BYTES / 1e9:.1f} GB of videos; later uploads are not included")
    if needed > needed_bytes:
        evidence += f"; min_free_gb is {min_free_gb:g}"
    summary = f"{free / 1e9:.1f} GB free on {space.mounted_on}, {needed / 1e9:.2f} GB needed"
    if free < needed:
        return CheckResult.fail("disk", f"{summary}: {(needed - free) / 1e9:.2f} GB are missing", evidence,
                                _remedy(space, min_free_gb, spec))
    if free < needed * (1 + RESERVE):
        return CheckResult.warn("disk", f"{summary}: little reserve", evidence, _remedy(space, min_free_gb, spec))
    return CheckResult.ok("disk", summary, evidence)


def _checkpoints(spec: RunSpec) -> int:
    train = spec.train
    made = -(-train.max_steps // train.checkpoint_every_steps)
    return min(made, train.checkpoints_total_limit + _kept_besides(spec)) + 1


def _kept_besides(spec: RunSpec) -> int:
    """Return the most checkpoints that are kept besides the last ones."""
    train = spec.train
    best = train.checkpoints_keep_best if train.heldout_share else 0
    common = math.lcm(train.checkpoints_keep_every_steps, train.checkpoint_every_steps)
    return best + (train.max_steps // common if common else 0)


def _remedy(space: Space, min_free_gb: float, spec: RunSpec) -> str:
    """Return a remedy: keep only as many checkpoints as fit with the reserve, where that is enough."""
    fit = int((space.free_kib * 1024 / (1 + RESERVE) - EVAL_BYTES) // MODELS[spec.train.model].checkpoint_bytes) - 1
    fit -= _kept_besides(spec)
    if fit >= 1 and space.free_kib * 1024 >= min_free_gb * 1e9 * (1 + RESERVE):
        return f"inv train --host {spec.host} --set checkpoints_total_limit={fit}   # or free some space"
    return f"du -xh -d 2 {Command(space.mounted_on).shell()} | sort -h | tail   # on {spec.host}: what uses the space"


def _lower(soft: str, hard: str) -> int:
    """Return the lower of two limits; 0 is none."""
    return min((n for n in (int(soft), int(hard)) if n), default=0)


def _unescaped(place: str) -> str:
    """Decode a mount point: the kernel writes blanks as octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)
