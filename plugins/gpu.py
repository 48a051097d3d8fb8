"""Check that there are enough healthy GPUs with free memory that nobody else uses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdtops.api import (
    Answer,
    CheckResult,
    Command,
    Connection,
    Host,
    Output,
    Probe,
    RunSpec,
    TrainConfig,
    Traits,
    ask,
    hookimpl,
    memory_plan,
    nvidia_smi,
)

TOTAL, FREE, LOAD, ECC = "memory.total", "memory.free", "utilization.gpu", "ecc.errors.uncorrected.volatile.total"
FIELDS = (*nvidia_smi.IDENTITY, "name", TOTAL, FREE, LOAD, ECC)
BUSY_PERCENT = 20
MOST_WAYS = 3  # to take less memory, that a message names
# double bit error, row remapping, NVLink, uncontained, fallen off the bus, GSP, GSP timeouts
FELL_OFF = 79  # newer drivers print no number for it
BROKEN_XIDS = frozenset({48, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140})


@dataclass(frozen=True)
class Xid:
    """A fault that NVIDIA's driver reported since boot."""

    code: int
    line: str


def parse_gpus(output: Output) -> nvidia_smi.Listing:
    """Parse the list of nvidia-smi. Raises ValueError when it lists no GPU."""
    listing = nvidia_smi.parse(FIELDS, output.out)
    if not listing.gpus:
        raise ValueError("nvidia-smi lists no GPU")
    return listing


def parse_processes(output: Output) -> tuple[nvidia_smi.GpuProcess, ...]:
    """Parse the processes on the GPUs. Raises ValueError for any other output."""
    found = nvidia_smi.parse_apps(output.out)
    if output.code != 0 or len(found) < len(output.out.strip().splitlines()):
        raise ValueError("nvidia-smi failed")
    return found


def parse_xid(output: Output) -> tuple[Xid, ...]:
    """Parse NVIDIA's faults in the kernel log. Raises ValueError when this user cannot read it."""
    if output.code != 0 or not output.out.endswith("read\n"):
        raise ValueError("this user cannot read the kernel log")
    rows = re.finditer(r"NVRM: (?:Xid \(PCI:[0-9a-fA-F:.]+\): (\d+)|fallen off the bus)[^\n]*", output.out)
    return tuple(Xid(int(row[1] or FELL_OFF), row[0][:160]) for row in rows)


def parse_instances(output: Output) -> dict[str, tuple[str, ...]]:
    """Parse the MIG instances of each GPU. Raises ValueError when no GPU is listed."""
    found = nvidia_smi.parse_list(output.out)
    if not found:
        raise ValueError("nvidia-smi lists no GPU")
    return found


# without persistence mode the driver wakes each GPU first
GPUS = Probe("gpus", Command(*nvidia_smi.query(FIELDS)).shell(), parse_gpus, timeout_s=40)
PROCESSES = Probe("processes", Command(*nvidia_smi.query(nvidia_smi.APP_FIELDS, nvidia_smi.APPS)).shell(),
                  parse_processes, timeout_s=40)
INSTANCES = Probe("instances", Command(*nvidia_smi.LIST).shell(), parse_instances, timeout_s=40)
XIDS = Probe("xids", 'm=$(dmesg 2>/dev/null || journalctl -k -b --no-pager -q 2>/dev/null); [ -n "$m" ] && '
             "{ printf '%s\\n' \"$m\" | grep -E 'NVRM: (Xid|fallen off the bus)' | tail -n 200; echo read; }",
             parse_xid, timeout_s=10)


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec, traits: Traits) -> list[CheckResult]:
    if not traits.is_local:
        return [CheckResult.skip("gpu", "not checked: the scheduler of the cluster assigns GPUs")]
    answers = ask(connection, [GPUS, PROCESSES, INSTANCES, XIDS])
    wanted = spec.train.gpus_required
    seen: Answer[nvidia_smi.Listing] = answers["gpus"]
    if seen.value is None:
        return [_unreadable(host, seen, wanted)]
    if not wanted:
        return [CheckResult.ok("gpu", f"none is needed (device cpu); on the host: {_listed(seen.value.gpus)}")]
    listed: Mapping[str, Sequence[str]] | None = answers["instances"].value
    instances = None if listed is None else [uuid for uuids in listed.values() for uuid in uuids]
    divided = {gpu: uuids for gpu, uuids in (listed or {}).items() if uuids}
    usable = nvidia_smi.visible(seen.value.gpus, host.env.get(nvidia_smi.VISIBLE), instances)
    used = usable[:wanted]
    return [*_odd(host, seen.value), _count(host, seen.value.gpus, usable, wanted, divided), *_model(host, used),
            *_memory(host, used, spec.train, divided), _ecc(host, used), _faults(host, answers["xids"]),
            _load(host, used), _others(host, answers["processes"], used)]


def _odd(host: Host, listing: nvidia_smi.Listing) -> list[CheckResult]:
    """Warn of other lines, such as those about a lost GPU; the other GPUs can still be used."""
    if not listing.odd:
        return []
    return [CheckResult.warn("gpu", "nvidia-smi prints lines that are not about a GPU", "; ".join(listing.odd[:4]),
                             f"sudo dmesg | grep -i xid   # on {host.name}; a lost GPU needs a reset")]


def _unreadable(host: Host, seen: Answer[nvidia_smi.Listing], wanted: int) -> CheckResult:
    if not wanted:
        return CheckResult.skip("gpu", "none is needed (device cpu); nvidia-smi is unreadable", seen.problem)
    if seen.output.code == 127:
        return CheckResult.fail("gpu", f"nvidia-smi is not installed, and {wanted} GPUs are requested",
                                seen.output.excerpt,
                                f"inv train --host {host.name} --set device=cpu   # or use a host with GPUs")
    if seen.output.timed_out:
        return CheckResult.fail("gpu", f"nvidia-smi hangs ({seen.problem}): a driver or GPU fault", "",
                                f"sudo dmesg | grep -i xid   # on {host.name}; a reboot usually helps; if it is only "
                                "slow: sudo nvidia-smi -pm 1")
    return CheckResult.fail("gpu", f"nvidia-smi lists no GPU, and {wanted} are requested", seen.problem,
                            f"inv gpu --host {host.name}   # and nvidia-smi on the host")


def _count(host: Host, seen: Sequence[nvidia_smi.Gpu], usable: Sequence[nvidia_smi.Gpu], wanted: int,
           divided: Mapping[str, Sequence[str]]) -> CheckResult:
    variable = host.env.get(nvidia_smi.VISIBLE)
    evidence = _listed(seen) + ("" if variable is None else f"; {nvidia_smi.VISIBLE}={variable}")
    if len(usable) < wanted:
        return CheckResult.fail("gpu count", f"{len(usable)} GPUs usable, {wanted} requested", evidence,
                                f"inv train --host {host.name} --set num_processes={max(1, len(usable))}"
                                if usable else f"edit env of [hosts.{host.name}] in hosts.toml, or use another host")
    if host.gpus is not None and len(seen) < host.gpus:
        return CheckResult.warn("gpu count", f"{len(seen)} GPUs, but hosts.toml says {host.gpus}: one may be lost",
                                evidence, f"nvidia-smi -L; sudo dmesg | grep -i xid   # on {host.name}")
    parts = [gpu for gpu in usable[:wanted] if gpu.index is None or gpu.uuid in divided]
    if parts and (wanted > 1 or len(divided.get(parts[0].uuid, ())) > 1):
        return _shared(host, parts[0], evidence)
    return CheckResult.ok("gpu count", f"{_listed(usable)}; {wanted} requested")


def _shared(host: Host, part: nvidia_smi.Gpu, evidence: str) -> CheckResult:
    """Warn of MIG instances: CUDA shows a process only the first of those that it may use."""
    if part.index is None:
        return CheckResult.warn("gpu count", "of MIG instances CUDA shows a process only the first", evidence,
                                f"inv train --host {host.name} --set num_processes=1")
    return CheckResult.warn("gpu count", f"{_label(part)} is divided into MIG instances, of which CUDA shows only the "
                            "first", evidence, f"edit env of [hosts.{host.name}] in hosts.toml: "
                            f"{nvidia_smi.VISIBLE} of one instance that `nvidia-smi -L` lists")


def _memory(host: Host, gpus: Sequence[nvidia_smi.Gpu], train: TrainConfig,
            divided: Mapping[str, Sequence[str]]) -> list[CheckResult]:
    """Check the free memory of each; that of a GPU says nothing about one of its instances."""
    free_mib = {_label(gpu): int(free) for gpu in gpus for free in [gpu.number(FREE)]
                if free is not None and gpu.uuid not in divided}
    least_mib = min(free_mib.values(), default=0)
    made = memory_plan.decided(train, least_mib << 20) if free_mib else train
    needed_mib = train.min_gpu_memory_free_mib or memory_plan.plan(made).total_mib
    short = {label: free for label, free in free_mib.items() if free < needed_mib}
    if short:
        each = ", ".join(f"{label}: {free} MiB" for label, free in short.items())
        return [CheckResult.fail("gpu memory", f"{len(short)} GPUs have less than {needed_mib} MiB free", each,
                                 _less_memory(host, train, least_mib))]
    if len(free_mib) < len(gpus):
        return [CheckResult.skip("gpu memory", "the driver does not report free memory")]
    how = f" with gradient_checkpointing = {str(made.gradient_checkpointing).lower()}"
    return [CheckResult.ok("gpu memory", f"at least {least_mib} MiB free on each, {needed_mib} needed"
                           f"{'' if train.min_gpu_memory_free_mib else how}")] if gpus else []


def _less_memory(host: Host, train: TrainConfig, free_mib: int) -> str:
    """Return settings that fit into this memory, by the memory plan."""
    if train.min_gpu_memory_free_mib:
        return (f"inv train --host {host.name} --set min_gpu_memory_free_mib={free_mib}   # or wait for the others; "
                f"0 takes what the memory plan counts, {memory_plan.plan(train).total_mib}")
    ways = [" ".join(f"--set {name}={str(value).lower()}" for name, value in memory_plan.changed(train, way).items())
            for way in memory_plan.ways_to_fit(train, free_mib << 20)]
    if not ways:
        return f"wait for the others, or use larger GPUs: no setting makes {train.model} fit into {free_mib} MiB"
    others = "".join(f", or {way}" for way in ways[1:MOST_WAYS])
    return f"inv train --host {host.name} {ways[0]}   # it fits{others}; or wait for the others"


def _model(host: Host, gpus: Sequence[nvidia_smi.Gpu]) -> list[CheckResult]:
    """Check that the GPUs are of one model: the slowest sets the speed, the smallest the memory."""
    names = {_name(gpu) for gpu in gpus}
    if len(names) > 1:
        each = ", ".join(f"{_label(gpu)}: {_name(gpu)}" for gpu in gpus)
        return [CheckResult.warn("gpu model", "the GPUs are of different models: the slowest sets the speed", each,
                                 f"edit env of [hosts.{host.name}] in hosts.toml: CUDA_VISIBLE_DEVICES of equal ones")]
    return [CheckResult.ok("gpu model", names.pop())] if names else []


def _ecc(host: Host, gpus: Sequence[nvidia_smi.Gpu]) -> CheckResult:
    errors = [(gpu, gpu.number(ECC)) for gpu in gpus]
    broken = [(gpu, count) for gpu, count in errors if count]
    if broken:
        each = ", ".join(f"{_label(gpu)}: {count}" for gpu, count in broken)
        return CheckResult.fail("gpu ecc", "uncorrected memory errors since the last reset", each,
                                f"sudo nvidia-smi --gpu-reset -i {broken[0][0].index}   # on {host.name}; or "
                                "exclude the GPU with CUDA_VISIBLE_DEVICES in env of hosts.toml")
    if gpus and all(count is None for _, count in errors):
        return CheckResult.skip("gpu ecc", "these GPUs do not count memory errors")
    return CheckResult.ok("gpu ecc", "no uncorrected memory errors")


def _faults(host: Host, answer: Answer[tuple[Xid, ...]]) -> CheckResult:
    """Check for Xids of hardware or link; many others are errors of a program (13, 31, 43)."""
    if answer.value is None:
        return CheckResult.skip("gpu xid", "not checked: this user cannot read the kernel log", answer.problem)
    bad = [x for x in answer.value if x.code in BROKEN_XIDS]
    if bad:
        return CheckResult.warn("gpu xid", f"{len(bad)} hardware faults since boot", bad[-1].line,
                                f"nvidia-smi -q | grep -A6 -i retire   # on {host.name}; if a GPU falls off the bus "
                                "again, reboot or replace it")
    return CheckResult.ok("gpu xid", "no hardware fault in the kernel log")


def _load(host: Host, gpus: Sequence[nvidia_smi.Gpu]) -> CheckResult:
    busy = [gpu for gpu in gpus if (gpu.number(LOAD) or 0) >= BUSY_PERCENT]
    if busy:
        each = ", ".join(f"{_label(gpu)}: {gpu.number(LOAD)} %" for gpu in busy)
        return CheckResult.warn("gpu load", "GPUs are busy before the training", each,
                                f"inv gpu --host {host.name} --watch")
    return CheckResult.ok("gpu load", "idle")


def _others(host: Host, answer: Answer[tuple[nvidia_smi.GpuProcess, ...]],
            gpus: Sequence[nvidia_smi.Gpu]) -> CheckResult:
    if answer.value is None:
        return CheckResult.warn("gpu processes", "not known who uses the GPUs", answer.problem,
                                f"inv gpu --host {host.name}")
    label_of = {gpu.uuid: _label(gpu) for gpu in gpus}
    others = [p for p in answer.value if p.gpu_uuid in label_of]
    if others:
        each = ", ".join(f"{label_of[p.gpu_uuid]}: {p.name} (pid {p.pid}, {_mib(p.memory_mib)})"
                         for p in others[:5])
        pids = ",".join(str(p.pid) for p in others)
        return CheckResult.warn("gpu processes", f"{len(others)} other processes use these GPUs", each,
                                f"ps -o pid,user,etime,args -p {pids}   # on {host.name}")
    return CheckResult.ok("gpu processes", "nobody else uses these GPUs")


def _listed(gpus: Sequence[nvidia_smi.Gpu]) -> str:
    names = Counter(map(_name, gpus))
    return ", ".join(f"{names[name]} x {name}" for name in sorted(names)) or "no GPU"


def _label(gpu: nvidia_smi.Gpu) -> str:
    return gpu.uuid if gpu.index is None else f"GPU {gpu.index}"


def _name(gpu: nvidia_smi.Gpu) -> str:
    return gpu.told.get("name", "MIG instance")


def _mib(count: int | None) -> str:
    return "memory unknown" if count is None else f"{count} MiB"
