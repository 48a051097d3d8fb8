"""Are there enough GPUs, healthy, with free memory, and nobody else on them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdtops.api import Answer, CheckResult, Connection, Host, Output, Probe, RunSpec, ask, hookimpl

FIELDS = "index,name,memory.total,memory.free,utilization.gpu,ecc.errors.uncorrected.volatile.total"
BUSY_PERCENT = 20


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str
    memory_total_mib: int
    memory_free_mib: int
    utilization_percent: int | None  # None where the driver says [N/A]
    ecc_errors: int | None


@dataclass(frozen=True)
class GpuProcess:
    pid: int
    name: str
    memory_mib: int | None


def parse_gpus(output: Output) -> tuple[Gpu, ...]:
    """The CSV of `nvidia-smi --query-gpu`. Raises ValueError when it is something else."""
    if output.code != 0:
        raise ValueError("nvidia-smi failed")
    return tuple(_gpu(line) for line in output.out.splitlines() if line.strip())


def parse_processes(output: Output) -> tuple[GpuProcess, ...]:
    """The CSV of `nvidia-smi --query-compute-apps`."""
    if output.code != 0:
        raise ValueError("nvidia-smi failed")
    rows = (line.rsplit(",", 1) for line in output.out.splitlines() if line.strip())
    found = []
    for row in rows:
        pid, _, name = row[0].partition(",")
        found.append(GpuProcess(int(pid), name.strip(), _number(row[1])))
    return tuple(found)


GPUS = Probe("gpus", f"nvidia-smi --query-gpu={FIELDS} --format=csv,noheader,nounits", parse_gpus, timeout_s=15)
PROCESSES = Probe("processes", "nvidia-smi --query-compute-apps=pid,process_name,used_memory "
                  "--format=csv,noheader,nounits", parse_processes, timeout_s=15)


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec) -> list[CheckResult]:
    answers = ask(connection, [GPUS, PROCESSES])
    wanted = spec.train.gpus_required
    seen: Answer[tuple[Gpu, ...]] = answers["gpus"]
    if seen.value is None:
        return [_unreadable(host, seen, wanted)]
    if not wanted:
        return [CheckResult.ok("gpu", f"none is needed (device cpu); there: {_listed(seen.value)}")]
    usable = _visible(seen.value, host.env.get("CUDA_VISIBLE_DEVICES"))
    findings = [_count(host, usable, wanted), *_memory(usable[:wanted], spec.train.min_gpu_memory_free_mib),
                *_health(usable[:wanted])]
    return findings + _others(answers["processes"])


def _unreadable(host: Host, seen: Answer[tuple[Gpu, ...]], wanted: int) -> CheckResult:
    missing = seen.output.code == 127
    if not wanted:
        return CheckResult.skip("gpu", "none is needed (device cpu); nvidia-smi says nothing readable", seen.problem)
    if missing:
        return CheckResult.fail("gpu", f"there is no nvidia-smi, and {wanted} GPUs are asked for", seen.output.excerpt,
                                "inv train --set device=cpu   # or use a host with GPUs")
    if seen.output.timed_out:
        return CheckResult.fail("gpu", f"nvidia-smi hangs ({seen.problem}): a driver or GPU fault", "",
                                f"on {host.name}: dmesg | grep -i xid; a reboot usually cures it")
    return CheckResult.fail("gpu", "what nvidia-smi says cannot be read", seen.problem, f"on {host.name}: nvidia-smi")


def _count(host: Host, usable: Sequence[Gpu], wanted: int) -> CheckResult:
    if len(usable) < wanted:
        return CheckResult.fail("gpu count", f"{len(usable)} GPUs usable, {wanted} asked for", _listed(usable),
                                f"inv train --host {host.name} --set num_processes={max(1, len(usable))}")
    if host.gpus is not None and len(usable) < host.gpus:
        return CheckResult.warn("gpu count", f"{len(usable)} GPUs, but hosts.toml says {host.gpus}: one may be lost",
                                _listed(usable), f"on {host.name}: nvidia-smi -L; dmesg | grep -i xid")
    return CheckResult.ok("gpu count", f"{_listed(usable)}; {wanted} asked for")


def _memory(gpus: Sequence[Gpu], needed_mib: int) -> list[CheckResult]:
    short = [g for g in gpus if g.memory_free_mib < needed_mib]
    if not gpus:
        return []
    if short:
        each = ", ".join(f"GPU {g.index}: {g.memory_free_mib} MiB" for g in short)
        return [CheckResult.fail("gpu memory", f"{len(short)} GPUs have less than {needed_mib} MiB free", each,
                                 "wait for the others, or: --set min_gpu_memory_free_mib=...")]
    least = min(g.memory_free_mib for g in gpus)
    return [CheckResult.ok("gpu memory", f"at least {least} MiB free on each, {needed_mib} needed")]


def _health(gpus: Sequence[Gpu]) -> list[CheckResult]:
    broken = [g for g in gpus if g.ecc_errors]
    busy = [g for g in gpus if (g.utilization_percent or 0) >= BUSY_PERCENT]
    findings = []
    if broken:
        each = ", ".join(f"GPU {g.index}: {g.ecc_errors}" for g in broken)
        findings.append(CheckResult.fail("gpu ecc", "uncorrected memory errors since the last reset", each,
                                         "ask for a reset or leave the GPU out with CUDA_VISIBLE_DEVICES"))
    if busy:
        each = ", ".join(f"GPU {g.index}: {g.utilization_percent} %" for g in busy)
        findings.append(CheckResult.warn("gpu load", "GPUs are busy before we begin", each))
    return findings


def _others(answer: Answer[tuple[GpuProcess, ...]]) -> list[CheckResult]:
    if answer.value is None:
        return [CheckResult.warn("gpu processes", "cannot tell who uses the GPUs", answer.problem)]
    if answer.value:
        each = ", ".join(f"{p.name} (pid {p.pid}, {p.memory_mib} MiB)" for p in answer.value[:5])
        return [CheckResult.warn("gpu processes", f"{len(answer.value)} other processes use GPUs", each,
                                 "ask their owners; ps -o user= -p PID says who they are")]
    return [CheckResult.ok("gpu processes", "nobody else uses the GPUs")]


def _visible(gpus: Sequence[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, when it names indices."""
    if not variable or not all(part.strip().isdigit() for part in variable.split(",")):
        return tuple(gpus)
    wanted = {int(part) for part in variable.split(",")}
    return tuple(g for g in gpus if g.index in wanted)


def _listed(gpus: Sequence[Gpu]) -> str:
    names = sorted({g.name for g in gpus})
    return ", ".join(f"{sum(g.name == n for g in gpus)} x {n}" for n in names) or "no GPU"


def _gpu(line: str) -> Gpu:
    fields = [f.strip() for f in line.split(",")]
    if len(fields) != 6:
        raise ValueError(f"{line[:80]!r} has {len(fields)} fields instead of 6")
    total, free = _number(fields[2]), _number(fields[3])
    if total is None or free is None:
        raise ValueError(f"{line[:80]!r} says no memory")
    return Gpu(int(fields[0]), fields[1], total, free, _number(fields[4]), _number(fields[5]))


def _number(text: str) -> int | None:
    """A number, None for [N/A] and its kin."""
    text = text.strip()
    return None if text.startswith("[") or text == "N/A" else int(text)
