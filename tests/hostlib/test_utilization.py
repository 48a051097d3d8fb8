"""What a host says of its CPU, memory and disk: real files, of this machine and as other kernels write them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rdtops.answers import HostUsage, host_usage
from rdtops.hostlib import utilization

STAT = "cpu  4705 150 1120 16250 520 30 45 0 300 0\ncpu0 2352 75 560 8125 260 15 22 0 150 0\ncpu1 2353 75 560\n"
MEMINFO = "MemTotal: 1056000000 kB\nMemFree:     9000000 kB\nMemAvailable:  836000000 kB\nHugePages_Total:  0\n"


def test_this_machine_tells_everything_and_its_cores_get_busy(tmp_path: Path) -> None:
    before = host_usage({"machine": utilization.of_machine(str(tmp_path))})
    assert None not in vars(before).values()
    assert before.cpus == os.cpu_count()
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s:
        pass
    busy = host_usage({"machine": utilization.of_machine(str(tmp_path / "to" / "come"))}).cpu_percent(before)
    assert busy is not None
    assert 0 < busy <= 100


def test_waiting_for_a_disk_is_idle_and_guests_are_not_counted_twice() -> None:
    told = utilization.cpu(STAT, "23.10 20.05 18.00 3/1200 4711\n")
    assert told == {"cpu_ticks": 22820, "cpu_busy_ticks": 6050, "cpus": 2, "load": 23.1}


@pytest.mark.parametrize(("limit", "used", "stat"), [
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")])
def test_in_a_container_the_memory_is_that_of_its_limit_without_the_cache(tmp_path: Path, limit: str, used: str,
                                                                         stat: str) -> None:
    (tmp_path / "memory").mkdir()
    machine = utilization.memory(MEMINFO)
    assert machine == {"memory_used_bytes": 220000000 << 10, "memory_total_bytes": 1056000000 << 10}
    (tmp_path / used).write_text(f"{30 << 30}\n")
    (tmp_path / stat).write_text(f"anon 5\ninactive_file {10 << 30}\ntotal_inactive_file {10 << 30}\n")
    (tmp_path / limit).write_text("max\n" if "max" in limit else f"{1 << 62}\n")
    assert utilization.limited_memory(str(tmp_path), machine) == machine
    (tmp_path / limit).write_text(f"{64 << 30}\n")
    assert utilization.limited_memory(str(tmp_path), machine) == {"memory_used_bytes": 20 << 30,
                                                                  "memory_total_bytes": 64 << 30}


def test_what_a_machine_does_not_tell_is_not_known(tmp_path: Path) -> None:
    told = utilization.of_machine("/", str(tmp_path), str(tmp_path))
    assert sorted(told) == ["disk_free_bytes", "disk_total_bytes"]
    usage = host_usage({"machine": told})
    assert (usage.cpus, usage.load, usage.memory_total_bytes) == (None, None, None)
    assert usage.cpu_percent(usage) is None
    assert host_usage({"machine": {"cpus": "many", "load": "NaN"}}) == HostUsage()


def test_a_reboot_in_between_is_no_load() -> None:
    assert HostUsage(cpu_ticks=50, cpu_busy_ticks=20).cpu_percent(HostUsage(cpu_ticks=9000, cpu_busy_ticks=20)) is None
