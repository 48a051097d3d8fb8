"""Gauges: the GPUs of a run in one line, and the CPU, memory and disk of its host in another. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from rdtops.answers import GpuUsage, HostUsage
from rdtops.ssh.display import size_words
from rdtops.ui.dashboard.plot import LEVELS
from rdtops.views.gpu_output import BUSY_PERCENT
from rdtops.views.terminal import styled

SPREAD_PERCENT = 10  # between the GPUs, from which the least busy one is named
HIGH_PERCENT = 90  # of memory in use
LOW_DISK_PERCENT = 5  # that is free
GAP = "   "

Part = tuple[Text, Text]  # in full, and short


def gpu_line(gpus: Sequence[GpuUsage], columns: int, *, is_own: bool, warning: str = "") -> Text:
    """Draw GPUs in one line: a bar for each, the mean load, memory, the hottest one, the power of all. `is_own`: they
    are those of the run."""
    name = f"GPU {ranges([gpu.index for gpu in gpus])}"
    own = Text(name, "bold")
    head = (own, own) if is_own else (styled("[bold]{}[/] of the host", name), styled("[bold]{}[/] (host)", name))
    notes = [_same(styled("[yellow]{}[/]", warning))] if warning else []
    return fitted([head, _load(gpus), _memory(gpus), _hottest(gpus), _power(gpus), *notes], columns)


def host_line(usage: HostUsage, cpu_percent: float | None, columns: int, *, name: str = "") -> Text:
    """Draw the CPU, memory and disk of a host in one line; `name` says which machine, where it is not that of the
    run."""
    parts = [_cpu(usage, cpu_percent), _host_memory(usage), _disk(usage)]
    if usage.load is not None:
        parts.append(_same(Text(f"load {usage.load:.1f}")))
    return fitted([_same(Text(name, "bold")), *parts] if name else parts, columns)


def fitted(parts: Sequence[Part], columns: int) -> Text:
    """Join the parts in full, else all in short, else as many of the short ones as fit, at least one."""
    full, short = (Text(GAP).join(each) for each in zip(*parts, strict=True))
    if full.cell_len <= columns:
        return full
    while short.cell_len > columns and len(parts) > 1:
        parts = parts[:-1]
        short = Text("  ").join(part[1] for part in parts)
    return short


def ranges(numbers: Sequence[int]) -> str:
    """Return numbers with runs as ranges.

    >>> ranges([0, 1, 2, 3, 5, 7])
    '0-3, 5, 7'
    """
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def level(percent: float | None) -> Text:
    """Draw a share in one cell, low loads yellow; `?` where it is not known."""
    if percent is None:
        return Text("?")
    cell = LEVELS[min(len(LEVELS) - 1, int(max(0.0, percent) * len(LEVELS) / 100))]
    return Text(cell, "green" if percent >= BUSY_PERCENT else "yellow")


def _load(gpus: Sequence[GpuUsage]) -> Part:
    bars = Text("").join(level(gpu.utilization_percent) for gpu in gpus)
    known = [(gpu.utilization_percent, gpu.index) for gpu in gpus if gpu.utilization_percent is not None]
    if not known:
        return _same(styled("{} load ?", bars))
    mean, (lowest, index) = sum(percent for percent, _ in known) / len(known), min(known)
    short = styled("{} {} %", bars, f"{mean:.0f}")
    is_uneven = max(known)[0] - lowest >= SPREAD_PERCENT
    return (styled("{}, lowest GPU {}: {} %", short, index, lowest) if is_uneven else short), short


def _memory(gpus: Sequence[GpuUsage]) -> Part:
    known = [(gpu.memory_used_mib, gpu.memory_total_mib) for gpu in gpus
             if gpu.memory_used_mib is not None and gpu.memory_total_mib is not None]
    if not known:
        return _same(Text("memory ?"))
    used, total = (sum(column) / 1024 for column in zip(*known, strict=True))
    used_words = f"{used:.1f}" if used < 10 else f"{used:.0f}"
    return Text(f"{used_words} of {total:.0f} GiB"), Text(f"{used_words}/{total:.0f} GiB")


def _hottest(gpus: Sequence[GpuUsage]) -> Part:
    known = [(gpu.temperature_c, -gpu.index) for gpu in gpus if gpu.temperature_c is not None]
    if not known:
        return _same(Text("? °C"))
    warm, index = max(known)
    if len(gpus) == 1:
        return _same(Text(f"{warm} °C"))
    return Text(f"hottest GPU {-index}: {warm} °C"), Text(f"{warm} °C ({-index})")


def _power(gpus: Sequence[GpuUsage]) -> Part:
    known = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
    watts = sum(known)
    return _same(Text("? W" if not known else f"{watts:.0f} W" if watts < 1000 else f"{watts / 1000:.1f} kW"))


def _cpu(usage: HostUsage, percent: float | None) -> Part:
    cores = f" of {usage.cpus} cores" if usage.cpus else ""
    if percent is None:  # it takes two looks
        return Text(f"CPU ? %{cores}"), Text("CPU ? %")
    bar = level(percent)
    bar.style = ""
    return styled("CPU {} {} %{}", bar, f"{percent:.0f}", cores), styled("CPU {} {} %", bar, f"{percent:.0f}")


def _host_memory(usage: HostUsage) -> Part:
    used, total = usage.memory_used_bytes, usage.memory_total_bytes
    if used is None or not total:
        return _same(Text("RAM ?"))
    style = "yellow" if 100 * used / total > HIGH_PERCENT else ""
    used_words = f"{used / 2**30:.1f}" if used < 10 * 2**30 else f"{used / 2**30:.0f}"
    return (Text(f"RAM {used_words} of {total / 2**30:.0f} GiB", style),
            Text(f"RAM {used_words}/{total / 2**30:.0f} GiB", style))


def _disk(usage: HostUsage) -> Part:
    free, total = usage.disk_free_bytes, usage.disk_total_bytes
    if free is None or not total:
        return _same(Text("disk ?"))
    style = "yellow" if 100 * free / total < LOW_DISK_PERCENT else ""
    return (Text(f"disk {size_words(free)} free of {size_words(total)}", style),
            Text(f"disk {size_words(free)} free", style))


def _same(text: Text) -> Part:
    return text, text
