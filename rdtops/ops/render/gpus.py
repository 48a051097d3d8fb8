"""What nvidia-smi says: once as it says it, again and again as a table that stays in its place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.ops.answers import Gpu
from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.words import clock, table_of, verbatim
from rdtops.ops.terminal import styled
from rdtops.ops.views import Gpus, GpuSample

BAR_CELLS = 12
BUSY_PERCENT, FULL_PERCENT = 50, 95


@shown.register
def _(thing: Gpus) -> RenderableType:
    return Group(styled("[bold]{}[/]  {}", thing.host, clock(time.time())), verbatim(thing.text.rstrip()))


@shown.register
def _(thing: GpuSample) -> RenderableType:
    names = Counter(gpu.name for gpu in thing.gpus)
    head = styled("[bold]{}[/]  {}", thing.host, clock(thing.time_s) if thing.time_s else "")
    head = Text("  ").join([head, *(styled("[dim]{} x {}[/]", count, name) for name, count in names.items())])
    table = table_of("", "GPU", "load", "memory", "", "temperature", "power")
    for gpu in thing.gpus:
        table.add_row(str(gpu.index), load_bar(gpu.utilization_percent, BUSY_PERCENT, BAR_CELLS),
                      load_bar(memory_percent(gpu), FULL_PERCENT, BAR_CELLS), memory_words(gpu),
                      _unit(gpu.temperature_c, " °C"), _unit(gpu.power_w, " W"))
    problem = [styled("[yellow]{}[/]", words) for words in (thing.problem, thing.warning) if words]
    return Group(head, *problem, *([table] if thing.gpus else []))


def lines_of(sample: GpuSample) -> Iterator[str]:
    """For a pipe: a line for each GPU, or one that says why there is none."""
    if sample.problem:
        yield f"{clock(time.time())}  {sample.host}  {sample.problem}"
        return
    if sample.warning:
        yield f"{clock(sample.time_s)}  {sample.host}  {sample.warning}"
    for gpu in sample.gpus:
        yield (f"{clock(sample.time_s)}  {sample.host}  GPU {gpu.index}  {_unit(gpu.utilization_percent, ' %'):>5}  "
               f"{memory_words(gpu)}  {_unit(gpu.temperature_c, ' °C')}  {_unit(gpu.power_w, ' W')}")


def load_bar(percent: float | None, from_percent: float, cells: int) -> Text:
    """A bar with its number, yellow up to `from_percent` and green above: an idle GPU is what one looks for."""
    if percent is None:
        return Text("?")
    full = round(cells * min(percent, 100) / 100)
    colour = "green" if percent >= from_percent else "yellow"
    return styled(f"[{colour}]{{}}[/][dim]{{}}[/] {{}}", "█" * full, "░" * (cells - full), f"{percent:3.0f} %")


def memory_percent(gpu: Gpu) -> float | None:
    if gpu.memory_used_mib is None or not gpu.memory_total_mib:
        return None
    return 100 * gpu.memory_used_mib / gpu.memory_total_mib


def memory_words(gpu: Gpu) -> str:
    if gpu.memory_used_mib is None or gpu.memory_total_mib is None:
        return "?"
    return f"{gpu.memory_used_mib / 1024:.1f} of {gpu.memory_total_mib / 1024:.0f} GiB"


def _unit(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f}{unit}"


@rows.register
def _(thing: Gpus) -> list[dict[str, Any]]:
    return [{"host": thing.host, **row} for row in thing.rows]


@rows.register
def _(thing: GpuSample) -> list[dict[str, Any]]:
    return [{"host": thing.host, "time_s": thing.time_s, **asdict(gpu)} for gpu in thing.gpus]
