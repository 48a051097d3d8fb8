"""Utilization: the CPU, memory and disk of a machine, from /proc, cgroups and statvfs. What the machine does not
tell is left out. Standard library, Python 3.8: sent with host programs."""

from __future__ import annotations

import os

from rdtops.hostlib import fields
from rdtops.hostlib.files import text_of

CGROUPS = (  # limit, memory in use, where its reclaimable part is told, and under what name: version 2, version 1
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"))


def of_machine(folder: str, proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> dict[str, float]:
    """Return the numbers of this machine and of the disk of `folder`: cpus, load (of a minute), cpu_busy_ticks,
    cpu_ticks (both since the boot), memory_used_bytes, memory_total_bytes, disk_free_bytes, disk_total_bytes. In a
    container the memory is that of its limit."""
    return {**cpu(text_of(os.path.join(proc, "stat")), text_of(os.path.join(proc, "loadavg"))),
            **limited_memory(cgroup, memory(text_of(os.path.join(proc, "meminfo")))), **disk(folder)}


def cpu(stat: str, loadavg: str) -> dict[str, float]:
    """Parse /proc/stat and /proc/loadavg. Waiting for a disk is idle time; guests are a part of user time."""
    lines = stat.splitlines()
    ticks = [fields.decimal(word) or 0 for word in lines[0].split()[1:9]] if lines else []
    found: dict[str, float] = {}
    if len(ticks) >= 5:
        found = {"cpu_ticks": sum(ticks), "cpu_busy_ticks": sum(ticks) - ticks[3] - ticks[4],
                 "cpus": sum(line.startswith("cpu") for line in lines) - 1}
    try:
        return {**found, "load": float(loadavg.split()[0])}
    except (IndexError, ValueError):
        return found


def memory(meminfo: str) -> dict[str, float]:
    """Parse /proc/meminfo: used is what no program could have without another one losing it."""
    kib = {words[0]: fields.decimal(words[1]) for words in map(str.split, meminfo.splitlines()) if len(words) > 1}
    total, available = kib.get("MemTotal:"), kib.get("MemAvailable:")
    if total is None or available is None:
        return {}
    return {"memory_used_bytes": (total - available) << 10, "memory_total_bytes": total << 10}


def limited_memory(cgroup: str, machine: dict[str, float]) -> dict[str, float]:
    """Return the memory of a container that has a limit below the machine's, else the machine's."""
    for limit_file, used_file, stat_file, reclaimable in CGROUPS:
        limit, used = (fields.decimal(text_of(os.path.join(cgroup, name))) for name in (limit_file, used_file))
        if limit is not None and used is not None and limit < machine.get("memory_total_bytes", 0):
            lines = map(str.split, text_of(os.path.join(cgroup, stat_file)).splitlines())
            stat = {words[0]: fields.decimal(words[1]) for words in lines if len(words) > 1}
            cache = stat.get(reclaimable) or 0
            return {"memory_used_bytes": max(0, used - cache), "memory_total_bytes": limit}
    return machine


def disk(folder: str) -> dict[str, float]:
    """Return the disk of the folder, or of its nearest parent that exists. Free is what a user other than root may
    take."""
    while folder and not os.path.exists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        told = os.statvfs(folder)
    except OSError:
        return {}
    return {"disk_free_bytes": told.f_bavail * told.f_frsize, "disk_total_bytes": told.f_blocks * told.f_frsize}
