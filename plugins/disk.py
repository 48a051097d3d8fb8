"""Will the checkpoints of this configuration fit on the disk of the workspace?"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rdtops.api import MODELS, CheckResult, Command, Connection, Host, Output, Probe, RunSpec, ask, hookimpl

OPTIONS = {"min_free_gb": "a number: GB that must stay free whatever the forecast says"}
RESERVE = 0.2  # of the forecast
_DF = re.compile(r".+?\s(?P<total>\d+|-)\s+(\d+|-)\s+(?P<free>-?\d+|-)\s+(\d+%|-)\s+(?P<mount>/.*)")


@dataclass(frozen=True)
class Space:
    mounted_on: str
    free_kib: int


def parse_df(output: Output) -> Space:
    """The last line of `df -kP`. Raises ValueError when it is something else."""
    _, free, mounted_on = _columns(output)
    if not free.isdigit():
        raise ValueError(f"df says {free!r} blocks are free")
    return Space(mounted_on, int(free))


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


def parse_writable(output: Output) -> bool:
    return output.out.strip() == "writable"


def probes(folder: str) -> list[Probe[object]]:
    """About the file system of a folder, or of the nearest parent that is there."""
    nearest = f'd={Command(folder).shell()}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; '
    return [Probe("space", f'{nearest}LC_ALL=C df -kP "$d"', parse_df, timeout_s=15),
            Probe("inodes", f'{nearest}LC_ALL=C df -iP "$d"', parse_inodes, timeout_s=15),
            Probe("writable", f'{nearest}[ -w "$d" ] && echo writable || echo "$d"', parse_writable, timeout_s=15)]


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec) -> list[CheckResult]:
    options = host.plugins.get("disk", {})
    wrong = problem_of(options)
    if wrong:
        return [CheckResult.fail("disk", wrong, remedy=f"edit [hosts.{host.name}.plugins.disk] in hosts.toml")]
    answers = ask(connection, probes(spec.workspace))
    findings = [_writable(spec, answers["writable"].value)]
    space = answers["space"]
    if space.value is None:
        return [*findings, CheckResult.warn("disk", "cannot tell the free space", space.problem)]
    findings.append(judged(space.value, forecast_bytes(spec), float(options.get("min_free_gb", 0)), spec))
    inodes = answers["inodes"].value
    if inodes is not None and inodes < 1000:
        findings.append(CheckResult.fail("disk inodes", f"{inodes} inodes free on {space.value.mounted_on}",
                                         remedy="delete small files there"))
    return findings


def forecast_bytes(spec: RunSpec) -> int:
    """Checkpoints that will lie there at once, one being written included."""
    train = spec.train
    made = -(-train.max_steps // train.checkpoint_every_steps)
    return (min(made, train.checkpoints_total_limit) + 1) * MODELS[train.model].checkpoint_bytes


def judged(space: Space, needed_bytes: int, min_free_gb: float, spec: RunSpec) -> CheckResult:
    free, needed = space.free_kib * 1024, max(needed_bytes, int(min_free_gb * 1e9))
    each_gb = MODELS[spec.train.model].checkpoint_bytes / 1e9
    evidence = f"{each_gb:.2f} GB a checkpoint, at most {spec.train.checkpoints_total_limit} kept"
    summary = f"{free / 1e9:.1f} GB free on {space.mounted_on}, {needed / 1e9:.2f} GB needed"
    if free < needed:
        return CheckResult.fail("disk", f"{summary}: {(needed - free) / 1e9:.2f} GB are missing", evidence,
                                "free some, or: --set checkpoints_total_limit=... (fewer are kept)")
    if free < needed * (1 + RESERVE):
        return CheckResult.warn("disk", f"{summary}: little reserve", evidence)
    return CheckResult.ok("disk", summary, evidence)


def problem_of(options: dict[str, object]) -> str:
    unknown = [key for key in options if key not in OPTIONS]
    if unknown:
        return f"unknown option {unknown[0]!r}; allowed: {', '.join(OPTIONS)}"
    value = options.get("min_free_gb", 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        return f"min_free_gb = {value!r}: {OPTIONS['min_free_gb']}"
    return ""


def _writable(spec: RunSpec, writable: bool | None) -> CheckResult:
    if writable:
        return CheckResult.ok("workspace", f"{spec.workspace} can be written")
    return CheckResult.fail("workspace", f"{spec.workspace} cannot be written by this user",
                            remedy=f"set hosts.{spec.host}.workspace in hosts.toml to a folder of yours")
