"""Will the checkpoints of this configuration fit on the disk of the workspace?"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from rdtops.api import MODELS, CheckResult, Command, Connection, Host, Output, Probe, RunSpec, ask, hookimpl

OPTIONS = {"min_free_gb": "a number: GB that must be free at the least, whatever the forecast says"}
RESERVE = 0.2  # of the forecast
INODES_NEEDED = 1000
_DF = re.compile(r".+?\s(?P<total>\d+|-)\s+(\d+|-)\s+(?P<free>-?\d+|-)\s+(\d+%|-)\s+(?P<mount>/.*)")


@dataclass(frozen=True)
class Space:
    mounted_on: str
    free_kib: int


def parse_df(output: Output) -> Space:
    """The last line of `df -kP`. Raises ValueError when it is something else."""
    _, free, mounted_on = _columns(output)
    if free == "-":
        raise ValueError("df does not say how many blocks are free")
    return Space(mounted_on, max(0, int(free)))  # below 0 when root's reserve is in use


def parse_inodes(output: Output) -> int | None:
    """Free inodes; None on file systems that do not count them (btrfs and some network disks say - or 0 of 0)."""
    total, free, _ = _columns(output)
    return int(free) if free.isdigit() and total not in ("0", "-") else None


def _columns(output: Output) -> tuple[str, str, str]:
    """Total, available and mount point of the last line of df -P; device and mount point may hold spaces."""
    lines = [line for line in output.out.splitlines() if line.strip()]
    row = _DF.fullmatch(lines[-1][:1000].strip()) if len(lines) > 1 else None
    if output.code != 0 or row is None:
        raise ValueError("df says nothing readable")
    return row["total"], row["free"], row["mount"]


def parse_mounts(output: Output) -> dict[str, frozenset[str]]:
    """/proc/self/mounts: mount point -> its options. A later line covers an earlier one of the same place."""
    rows = (line.split(" ") for line in output.out.splitlines())
    return {_unescaped(row[1]): frozenset(row[3].split(",")) for row in rows if len(row) >= 4}


def probes(folder: str) -> list[Probe[Any]]:
    """About the file system of a folder, or of the nearest parent that is there."""
    nearest = f'd={Command(folder).shell()}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; '
    return [Probe("space", f'{nearest}LC_ALL=C df -kP "$d"', parse_df, timeout_s=15),
            Probe("inodes", f'{nearest}LC_ALL=C df -iP "$d"', parse_inodes, timeout_s=15),
            Probe("mounts", "cat /proc/self/mounts", parse_mounts, timeout_s=15)]


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec) -> list[CheckResult]:
    options = host.plugins.get("disk", {})
    wrong = problem_of(options)
    if wrong:
        return [CheckResult.fail("disk", wrong, remedy=f"edit [hosts.{host.name}.plugins.disk] in hosts.toml")]
    answers = ask(connection, probes(spec.workspace))
    space: Space | None = answers["space"].value
    if space is None:
        return [CheckResult.warn("disk", "cannot tell the free space", answers["space"].problem,
                                 f"df -h {spec.workspace}   # on {host.name}")]
    if "ro" in (answers["mounts"].value or {}).get(space.mounted_on, ()):
        return [CheckResult.fail("disk", f"{space.mounted_on} is mounted read-only", spec.workspace,
                                 f"sudo dmesg | tail   # on {host.name}: a disk fault is a common reason")]
    findings = [judged(space, forecast_bytes(spec), float(options.get("min_free_gb", 0)), spec)]
    inodes = answers["inodes"].value
    if inodes is not None and inodes < INODES_NEEDED:
        findings.append(CheckResult.fail(
            "disk inodes", f"{inodes} inodes free on {space.mounted_on}, {INODES_NEEDED} needed",
            remedy=f"du -x --inodes {space.mounted_on} | sort -n | tail   # on {host.name}: where the many files are"))
    return findings


def forecast_bytes(spec: RunSpec) -> int:
    """Checkpoints that will lie there at once, one being written included."""
    return _checkpoints(spec) * MODELS[spec.train.model].checkpoint_bytes


def judged(space: Space, needed_bytes: int, min_free_gb: float, spec: RunSpec) -> CheckResult:
    free, needed = space.free_kib * 1024, max(needed_bytes, int(min_free_gb * 1e9))
    each_gb = MODELS[spec.train.model].checkpoint_bytes / 1e9
    evidence = (f"{_checkpoints(spec)} checkpoints of {each_gb:.2f} GB at once ({_checkpoints(spec) - 1} kept, one "
                "being written); uploads to come are not counted")
    if needed > needed_bytes:
        evidence += f"; min_free_gb is {min_free_gb:g}"
    summary = f"{free / 1e9:.1f} GB free on {space.mounted_on}, {needed / 1e9:.2f} GB needed"
    if free < needed:
        return CheckResult.fail("disk", f"{summary}: {(needed - free) / 1e9:.2f} GB are missing", evidence,
                                _remedy(space, min_free_gb, spec))
    if free < needed * (1 + RESERVE):
        return CheckResult.warn("disk", f"{summary}: little reserve", evidence, _remedy(space, min_free_gb, spec))
    return CheckResult.ok("disk", summary, evidence)


def problem_of(options: dict[str, Any]) -> str:
    unknown = [key for key in options if key not in OPTIONS]
    if unknown:
        return f"unknown option {unknown[0]!r}; allowed: {', '.join(OPTIONS)}"
    value = options.get("min_free_gb", 0)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return "" if is_number and value >= 0 else f"min_free_gb = {value!r}: {OPTIONS['min_free_gb']}"


def _checkpoints(spec: RunSpec) -> int:
    train = spec.train
    made = -(-train.max_steps // train.checkpoint_every_steps)
    return min(made, train.checkpoints_total_limit + _kept_besides(spec)) + 1


def _kept_besides(spec: RunSpec) -> int:
    """Checkpoints that stay although they are not among the last ones: at most so many."""
    train = spec.train
    best = train.checkpoints_keep_best if train.heldout_share else 0
    common = math.lcm(train.checkpoints_keep_every_steps, train.checkpoint_every_steps)
    return best + (train.max_steps // common if common else 0)


def _remedy(space: Space, min_free_gb: float, spec: RunSpec) -> str:
    """Keep as many checkpoints as fit with the reserve, where that can help."""
    fit = int(space.free_kib * 1024 / (1 + RESERVE) // MODELS[spec.train.model].checkpoint_bytes) - 1
    fit -= _kept_besides(spec)
    if fit >= 1 and space.free_kib * 1024 >= min_free_gb * 1e9 * (1 + RESERVE):
        return f"inv train --host {spec.host} --set checkpoints_total_limit={fit}   # or free some there"
    return f"du -xh -d 2 {space.mounted_on} | sort -h | tail   # on {spec.host}: what takes the space"


def _unescaped(place: str) -> str:
    """The kernel writes blanks in mount points as octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)
