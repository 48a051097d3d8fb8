"""Are there enough GPUs, healthy, with free memory, and nobody else on them?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rdtops.api import Answer, CheckResult, Connection, Host, Output, Probe, RunSpec, Traits, ask, hookimpl

FIELDS = "index,uuid,name,memory.total,memory.free,utilization.gpu,ecc.errors.uncorrected.volatile.total"
BUSY_PERCENT = 20
# double bit error, row remapping, NVLink, uncontained, fallen off the bus, GSP, timeouts of the same
FELL_OFF = 79  # newer drivers say it in words alone
BROKEN_XIDS = frozenset({48, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140})


@dataclass(frozen=True)
class Gpu:
    index: int
    uuid: str
    name: str
    memory_total_mib: int
    memory_free_mib: int
    utilization_percent: int | None  # None where the driver says [N/A]
    ecc_errors: int | None


@dataclass(frozen=True)
class GpuProcess:
    gpu_uuid: str
    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True)
class Xid:
    """A fault that NVIDIA's driver reported since the machine was started."""

    code: int
    line: str


def parse_gpus(output: Output) -> tuple[Gpu, ...]:
    """The CSV of `nvidia-smi --query-gpu`. Raises ValueError when it is something else."""
    if output.code != 0:
        raise ValueError("nvidia-smi failed")
    return tuple(_gpu(line) for line in output.out.splitlines() if line.strip())


def parse_processes(output: Output) -> tuple[GpuProcess, ...]:
    """The CSV of `nvidia-smi --query-compute-apps`; a process name may hold commas."""
    if output.code != 0:
        raise ValueError("nvidia-smi failed")
    return tuple(_process(line) for line in output.out.splitlines() if line.strip())


GPUS = Probe("gpus", f"nvidia-smi --query-gpu={FIELDS} --format=csv,noheader,nounits", parse_gpus, timeout_s=15)
def parse_xid(output: Output) -> tuple[Xid, ...]:
    """NVIDIA's faults in the kernel's log. Raises ValueError where this user may not read it."""
    if output.code != 0 or not output.out.endswith("read\n"):
        raise ValueError("the kernel's log is not for this user")
    rows = re.finditer(r"NVRM: (?:Xid \(PCI:[0-9a-fA-F:.]+\): (\d+)|fallen off the bus)[^\n]*", output.out)
    return tuple(Xid(int(row[1] or FELL_OFF), row[0][:160]) for row in rows)


PROCESSES = Probe("processes", "nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory "
                  "--format=csv,noheader,nounits", parse_processes, timeout_s=15)


XIDS = Probe("xids", 'm=$(dmesg 2>/dev/null || journalctl -k -b --no-pager -q 2>/dev/null); [ -n "$m" ] && '
             "{ printf '%s\\n' \"$m\" | grep -E 'NVRM: (Xid|fallen off the bus)' | tail -n 200; echo read; }",
             parse_xid, timeout_s=10)


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec, traits: Traits) -> list[CheckResult]:
    if not traits.is_local:
        return [CheckResult.skip("gpu", "those of the cluster's nodes: its scheduler gives them, free of others")]
    answers = ask(connection, [GPUS, PROCESSES, XIDS])
    wanted = spec.train.gpus_required
    seen: Answer[tuple[Gpu, ...]] = answers["gpus"]
    if seen.value is None:
        return [_unreadable(host, seen, wanted)]
    if not wanted:
        return [CheckResult.ok("gpu", f"none is needed (device cpu); there: {_listed(seen.value)}")]
    used = visible(seen.value, host.env.get("CUDA_VISIBLE_DEVICES"))[:wanted]
    needed_mib = spec.train.min_gpu_memory_free_mib
    return [_count(host, seen.value, wanted), *_model(host, used), *_memory(host, used, needed_mib),
            _ecc(host, used), _faults(host, answers["xids"]), _load(host, used),
            _others(host, answers["processes"], used)]


def visible(gpus: Sequence[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order: as in CUDA, the first entry that names none ends it."""
    if variable is None:
        return tuple(gpus)
    chosen = []
    for entry in variable.split(","):
        gpu = next((g for g in gpus if _is_named(g, entry.strip())), None)
        if gpu is None:
            break
        chosen.append(gpu)
    return tuple(chosen)


def _is_named(gpu: Gpu, entry: str) -> bool:
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


def _unreadable(host: Host, seen: Answer[tuple[Gpu, ...]], wanted: int) -> CheckResult:
    if not wanted:
        return CheckResult.skip("gpu", "none is needed (device cpu); nvidia-smi says nothing readable", seen.problem)
    if seen.output.code == 127:
        return CheckResult.fail("gpu", f"there is no nvidia-smi, and {wanted} GPUs are asked for", seen.output.excerpt,
                                f"inv train --host {host.name} --set device=cpu   # or use a host with GPUs")
    if seen.output.timed_out:
        return CheckResult.fail("gpu", f"nvidia-smi hangs ({seen.problem}): a driver or GPU fault", "",
                                f"sudo dmesg | grep -i xid   # on {host.name}; a reboot usually cures it")
    return CheckResult.fail("gpu", "what nvidia-smi says cannot be read", seen.problem,
                            f"inv gpu --host {host.name}   # and nvidia-smi there")


def _count(host: Host, seen: Sequence[Gpu], wanted: int) -> CheckResult:
    variable = host.env.get("CUDA_VISIBLE_DEVICES")
    usable = visible(seen, variable)
    evidence = _listed(seen) + ("" if variable is None else f"; CUDA_VISIBLE_DEVICES={variable}")
    if len(usable) < wanted:
        return CheckResult.fail("gpu count", f"{len(usable)} GPUs usable, {wanted} asked for", evidence,
                                f"inv train --host {host.name} --set num_processes={max(1, len(usable))}"
                                if usable else f"edit env of [hosts.{host.name}] in hosts.toml, or use another host")
    if host.gpus is not None and len(seen) < host.gpus:
        return CheckResult.warn("gpu count", f"{len(seen)} GPUs, but hosts.toml says {host.gpus}: one may be lost",
                                evidence, f"nvidia-smi -L; sudo dmesg | grep -i xid   # on {host.name}")
    return CheckResult.ok("gpu count", f"{_listed(usable)}; {wanted} asked for")


def _memory(host: Host, gpus: Sequence[Gpu], needed_mib: int) -> list[CheckResult]:
    short = [g for g in gpus if g.memory_free_mib < needed_mib]
    if not gpus:
        return []
    if short:
        each = ", ".join(f"GPU {g.index}: {g.memory_free_mib} MiB" for g in short)
        return [CheckResult.fail("gpu memory", f"{len(short)} GPUs have less than {needed_mib} MiB free", each,
                                 f"inv train --host {host.name} --set min_gpu_memory_free_mib="
                                 f"{min(g.memory_free_mib for g in short)}   # or wait for the others")]
    least = min(g.memory_free_mib for g in gpus)
    return [CheckResult.ok("gpu memory", f"at least {least} MiB free on each, {needed_mib} needed")]


def _model(host: Host, gpus: Sequence[Gpu]) -> list[CheckResult]:
    """All processes wait for the slowest card, and the smallest decides what fits."""
    if len({g.name for g in gpus}) > 1:
        each = ", ".join(f"GPU {g.index}: {g.name}" for g in gpus)
        return [CheckResult.warn("gpu model", "the GPUs are of different models: the slowest sets the pace", each,
                                 f"edit env of [hosts.{host.name}] in hosts.toml: CUDA_VISIBLE_DEVICES of equal ones")]
    return [CheckResult.ok("gpu model", gpus[0].name)] if gpus else []


def _ecc(host: Host, gpus: Sequence[Gpu]) -> CheckResult:
    broken = [g for g in gpus if g.ecc_errors]
    if broken:
        each = ", ".join(f"GPU {g.index}: {g.ecc_errors}" for g in broken)
        return CheckResult.fail("gpu ecc", "uncorrected memory errors since the last reset", each,
                                f"sudo nvidia-smi --gpu-reset -i {broken[0].index}   # on {host.name}; or "
                                "leave the GPU out with CUDA_VISIBLE_DEVICES in env of hosts.toml")
    if gpus and all(g.ecc_errors is None for g in gpus):
        return CheckResult.skip("gpu ecc", "these cards do not count memory errors")
    return CheckResult.ok("gpu ecc", "no uncorrected memory errors")


def _faults(host: Host, answer: Answer[tuple[Xid, ...]]) -> CheckResult:
    """Many Xids are a program's own fault (13, 31, 43); these are the hardware's or the link's."""
    if answer.value is None:
        return CheckResult.skip("gpu xid", "not asked: the kernel's log is not for this user", answer.problem)
    bad = [x for x in answer.value if x.code in BROKEN_XIDS]
    if bad:
        return CheckResult.warn("gpu xid", f"{len(bad)} hardware faults since the machine was started", bad[-1].line,
                                f"nvidia-smi -q | grep -A6 -i retire   # on {host.name}; a GPU that falls off the bus "
                                "again wants a reboot or an exchange")
    return CheckResult.ok("gpu xid", "no hardware fault in the kernel's log")


def _load(host: Host, gpus: Sequence[Gpu]) -> CheckResult:
    busy = [g for g in gpus if (g.utilization_percent or 0) >= BUSY_PERCENT]
    if busy:
        each = ", ".join(f"GPU {g.index}: {g.utilization_percent} %" for g in busy)
        return CheckResult.warn("gpu load", "GPUs are busy before we begin", each,
                                f"inv gpu --host {host.name} --watch")
    return CheckResult.ok("gpu load", "idle")


def _others(host: Host, answer: Answer[tuple[GpuProcess, ...]], gpus: Sequence[Gpu]) -> CheckResult:
    if answer.value is None:
        return CheckResult.warn("gpu processes", "cannot tell who uses the GPUs", answer.problem,
                                f"inv gpu --host {host.name}")
    index_of = {g.uuid: g.index for g in gpus}
    others = [p for p in answer.value if p.gpu_uuid in index_of]
    if others:
        each = ", ".join(f"GPU {index_of[p.gpu_uuid]}: {p.name} (pid {p.pid}, {_mib(p.memory_mib)})"
                         for p in others[:5])
        pids = ",".join(str(p.pid) for p in others)
        return CheckResult.warn("gpu processes", f"{len(others)} other processes use these GPUs", each,
                                f"ps -o pid,user,etime,args -p {pids}   # on {host.name}")
    return CheckResult.ok("gpu processes", "nobody else uses these GPUs")


def _listed(gpus: Sequence[Gpu]) -> str:
    names = sorted({g.name for g in gpus})
    return ", ".join(f"{sum(g.name == n for g in gpus)} x {n}" for n in names) or "no GPU"


def _mib(count: int | None) -> str:
    return "memory unknown" if count is None else f"{count} MiB"


def _gpu(line: str) -> Gpu:
    fields = [f.strip() for f in line.split(",")]
    if len(fields) != 7:
        raise ValueError(f"{line[:80]!r} has {len(fields)} fields instead of 7")
    total, free = _number(fields[3]), _number(fields[4])
    if total is None or free is None:
        raise ValueError(f"{line[:80]!r} says no memory")
    return Gpu(int(fields[0]), fields[1], fields[2], total, free, _number(fields[5]), _number(fields[6]))


def _process(line: str) -> GpuProcess:
    fields = line.split(",")
    if len(fields) < 4:
        raise ValueError(f"{line[:80]!r} has {len(fields)} fields instead of 4")
    uuid, pid, *name, memory = fields
    return GpuProcess(uuid.strip(), int(pid), ",".join(name).strip(), _number(memory))


def _number(text: str) -> int | None:
    """A number, None for [N/A] and its kin."""
    text = text.strip()
    return None if text.startswith("[") or text == "N/A" else int(text)
