"""Host program: collect the evidence about one run for a diagnosis. Standard library, Python 3.8.

Request: {"workspace": str, "wanted": str}: a run id, a beginning or end of one, or '' for the newest that is
running, else the newest.
Answer: {"names": [every run, oldest first], "running": [those that run, where none was named], "facts", "attempts"},
the last two if exactly one run matches; for the facts see rdtops.contract.diagnosis.Evidence. The run's supervisor
calls `facts` itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from typing import Any, Sequence, TypeVar

from rdtops.hostlib import liveness, nvidia_smi
from rdtops.hostlib.checkpoints import ls
from rdtops.hostlib.fields import loads, number, table, whole
from rdtops.hostlib.files import opened, text_of
from rdtops.hostlib.names import is_run_id
from rdtops.hostlib.processes import carrying, rank_of, stat_of

Name = TypeVar("Name", bound=str)

TAIL_BYTES = 1 << 18
COUNTED_BYTES = 1 << 28  # lines are numbered up to this size of a file; beyond it they have no number
LINE_LETTERS = 2000
LOG_LINES, JOURNAL_LINES, KERNEL_LINES = 2000, 200, 20  # eight ranks may each write a traceback of 200 lines
EVALUATION = ('{"kind": "eval_', '{"kind": "trial"')
SAMPLED_S = 0.5  # interval in which a rank's share of a core is measured
TELLING = ("failed", "stopped", "finished", "silent", "heard", "stuck", "started", "attempt", "checkpoint_failed",
           "stop_requested")
GPU_FIELDS = (*nvidia_smi.IDENTITY, "memory.used", "utilization.gpu")
REASONS = "clocks_throttle_reasons.active"  # not every driver uses this name
THROTTLED = {0x8: "slowed down by its hardware", 0x20: "slowed down by heat (software)",
             0x40: "slowed down by heat (hardware)", 0x80: "slowed down by its power brake"}


def facts(workspace: str, run_id: str, exit_code: int | None = None, *, ended: bool = False) -> dict[str, Any]:
    """Return the facts about a run. `ended`: the caller knows that the attempt has ended, and its exit code."""
    folder = os.path.join(workspace, "runs", run_id)
    journal = attempt_of(os.path.join(folder, "journal.jsonl"))
    begun: dict[str, Any] = next((e for e in journal["events"] if e.get("kind") == "attempt"), {})
    tag = f"{liveness.RUN}={run_id}"
    pids = [] if ended else carrying(tag)
    life = liveness.read(folder, tag, lambda _: bool(pids))
    disk = disk_of(folder)
    smi, problem = gpus(pids, used_gpus(folder))
    oom_kills = counted_oom_kills()
    before = whole(begun.get("oom_kills"))
    after = whole((journal["ended_by"] or {}).get("oom_kills", oom_kills))
    return {
        "run_id": run_id, "config": text_of(os.path.join(folder, "config.json")), "journal": journal["lines"],
        "log": log_of(os.path.join(folder, "train.log"), begun), "kernel": kernel(number(begun.get("time_s")) or 0.0),
        "exit_code": exit_code if ended or exit_code is not None else life.exit_code,
        "alive": life.alive and not ended, "launched": life.launched, "stop_requested": life.stop_requested,
        "same_boot": life.same_boot,
        "oom_kills": None if before is None or after is None else max(0, after - before),
        "disk_free_bytes": disk[0], "disk_free_inodes": disk[1], "gpus": smi, "gpu_problem": problem,
        "ranks": ranks(pids), "now_s": time.time(), "ended_by": journal["ended_by"],
        "log_age_s": age_of(os.path.join(folder, "train.log"))}


def answer(workspace: str, wanted: str) -> dict[str, Any]:
    root = os.path.join(workspace, "runs")
    names = [name for name in ls(root) if is_run_id(name) and os.path.isdir(os.path.join(root, name))]
    is_carried = liveness.carried_in_one_look()
    running = [] if wanted else [name for name in names if liveness.read(
        os.path.join(root, name), f"{liveness.RUN}={name}", is_carried).alive]
    found = matching(names, wanted, running)
    if len(found) != 1:
        return {"names": names, "running": running, "facts": None, "attempts": []}
    return {"names": names, "running": running, "facts": facts(workspace, found[0]),
            "attempts": attempts(os.path.join(root, found[0], "journal.jsonl"))}


def matching(names: Sequence[Name], wanted: str, running: Sequence[Name] = ()) -> list[Name]:
    """Return the names that match what a user typed, the whole name, an end of it or any part; where nothing was typed
    the newest of `running`, since a resumed run need not be the newest, else the newest. Both are sorted by time."""
    if not wanted:
        return list((running or names)[-1:])
    return ([n for n in names if n == wanted] or [n for n in names if n.startswith(wanted) or n.endswith(wanted)]
            or [n for n in names if wanted in n])


def attempts(path: str) -> list[dict[str, Any]]:
    """Return how each attempt of the last launch ended."""
    ended: list[dict[str, Any]] = []
    for event in map(parsed, tail_of(path)[0]):
        if event.get("kind") == "launched":
            ended = []
        elif event.get("kind") == "attempt_ended":
            ended.append(event)
    return ended


def attempt_of(path: str) -> dict[str, Any]:
    """Return the numbered lines of the last attempt with events, these events, and how it ended."""
    lines, first = tail_of(path)
    numbered = [(first and first + n, line) for n, line in enumerate(lines) if not line.startswith(EVALUATION)]
    events = [parsed(line) for _, line in numbered]
    ended_by, begin = None, 0
    for place, event in enumerate(events):
        kind = event.get("kind")
        if kind in ("launched", "attempt"):
            begin, ended_by = place, None if kind == "launched" else ended_by
        if kind == "attempt_ended":
            ended_by = event
        elif kind == "started":
            ended_by = None
    kept = list(zip(numbered[begin:], events[begin:]))
    recent = {id(e) for _, e in kept[-JOURNAL_LINES:]}
    kept = [(n, e) for n, e in kept if id(e) in recent or e.get("kind") in TELLING]
    return {"lines": [n for n, _ in kept], "events": [e for _, e in kept], "ended_by": ended_by}


def log_of(path: str, begun: dict[str, Any]) -> list[tuple[int, str]]:
    """Return the last lines with their numbers; of the last attempt alone if the Journal has its beginning."""
    lines, first = tail_of(path, max(0, whole(begun.get("log_offset")) or 0), whole(begun.get("log_line")) or 1)
    return [(first and first + n, part[:LINE_LETTERS]) for n, line in enumerate(lines)
            for part in line.splitlines() or [""]][-LOG_LINES:]


def tail_of(path: str, begin: int = 0, line: int = 1) -> tuple[list[str], int]:
    """Return the last lines after the offset `begin`, where line number `line` begins, and the number of the first; 0
    where it is too far away to be counted."""
    try:
        with open(opened(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin, line = (begin, line) if begin <= size else (0, 1)
            start = max(begin, size - TAIL_BYTES)
            is_counted = start - begin <= COUNTED_BYTES
            file.seek(begin if is_counted else start)
            while file.tell() < start:
                line += file.read(min(1 << 20, start - file.tell())).count(b"\n")
            lines = file.read(TAIL_BYTES).decode("utf-8", "replace").split("\n")  # JSON strings may hold others
    except OSError:
        return [], 1
    lines = lines if lines[-1] else lines[:-1]
    lines, line = (lines[1:], line + 1) if start > begin else (lines, line)
    return lines, line if is_counted else 0


def age_of(path: str) -> float:
    """Return the seconds since a file was written; 0 where it does not exist."""
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return 0.0


def parsed(line: str) -> dict[str, Any]:
    try:
        return table(loads(line))
    except ValueError:
        return {}


def ranks(pids: list[int]) -> list[dict[str, Any]]:
    """Return the state and the share of a core of each rank."""
    found = {pid: rank for pid in pids for rank in [rank_of(pid)] if rank is not None}
    before = {pid: ticks(pid) for pid in found}
    if found:
        time.sleep(SAMPLED_S)
    tick = os.sysconf("SC_CLK_TCK")
    return [{"rank": rank, "pid": pid, "state": (stat_of(pid) or ["?"])[0],
             "cpu_share": round((ticks(pid) - before[pid]) / tick / SAMPLED_S, 2)}
            for pid, rank in sorted(found.items(), key=lambda item: item[1])]


def ticks(pid: int) -> int:
    stat = stat_of(pid)
    return int(stat[11]) + int(stat[12]) if len(stat) > 12 else 0


def disk_of(folder: str) -> tuple[int | None, int | None]:
    """Return free bytes and inodes; None for what a file system does not count."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None, None
    return disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None


def counted_oom_kills() -> int | None:
    """Return the kernel's number of OOM kills since the host was booted."""
    found = re.search(r"^oom_kill (\d+)$", text_of("/proc/vmstat"), re.MULTILINE)
    return int(found[1]) if found else None


def kernel(since_s: float) -> list[tuple[int, str]]:
    """Return kernel messages about lack of memory and failed GPUs, if this user may read them."""
    if not since_s:
        return []
    for words in (["journalctl", "-k", "-q", "--no-pager", "-o", "short-iso", "--since", f"@{since_s:.0f}"],
                  ["dmesg", "--since", f"@{since_s:.0f}"]):
        said = output(words)
        if said:
            telling = re.compile(r"Out of memory|oom-kill|Killed process|NVRM|Xid")
            return [(0, line) for line in said.splitlines() if telling.search(line)][-KERNEL_LINES:]
    return []


def used_gpus(folder: str) -> list[str] | None:
    """Return the GPUs of a run as CUDA counts them, none for a training on CPUs; None where that is not known."""
    try:
        train = table(table(loads(text_of(os.path.join(folder, "config.json")))).get("train"))
    except ValueError:
        return None
    if train.get("device") != "cuda":
        return [] if train.get("device") == "cpu" else None
    exported = re.search(rf"^export {nvidia_smi.VISIBLE}=(.*)$", text_of(os.path.join(folder, "launch.sh")),
                         re.MULTILINE)
    visible = exported[1].strip("'") if exported else os.environ.get(nvidia_smi.VISIBLE)
    return nvidia_smi.requested(whole(train.get("num_processes")) or 0, visible)


def gpus(ours: list[int], used: Sequence[str] | None = None) -> tuple[list[dict[str, Any]], str]:
    """Return nvidia-smi's values of each GPU, and why some cannot be used; not of others than `used`."""
    found = nvidia_smi.gpus((*GPU_FIELDS, REASONS))
    if not found.gpus and any("not a valid field" in line for line in found.odd):
        found = nvidia_smi.gpus(GPU_FIELDS)
    processes = nvidia_smi.processes()
    mine = {process.gpu_uuid for process in processes if process.pid in ours}
    are_there = used is not None and all(any(nvidia_smi.is_named(gpu.uuid, gpu.index, name) for gpu in found.gpus)
                                         for name in used)
    return [{"index": str(gpu.index), "used_mib": gpu.number("memory.used"),
             "utilisation_percent": gpu.number("utilization.gpu"), "throttled": throttled(gpu.told.get(REASONS, "")),
             "others": [process.pid for process in processes if process.gpu_uuid == gpu.uuid and gpu.uuid in mine
                        and process.pid not in ours]} for gpu in found.gpus], "" if are_there else found.problem


def throttled(reasons: str) -> str:
    try:
        bits = int(reasons, 16)
    except ValueError:
        return ""
    return ", ".join(words for bit, words in THROTTLED.items() if bits & bit)


def output(words: list[str]) -> str:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              encoding="utf-8", errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    sys.stdout.write(json.dumps(answer(**request)) + "\n")


if __name__ == "__main__":
    main()
