"""GPU output: the output of nvidia-smi once, or a live table of the GPUs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.answers import GpuUsage
from rdtops.views.output import LiveOutput, WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import clock, table_of, verbatim

BAR_CELLS = 12
BUSY_PERCENT, FULL_PERCENT = 50, 95


@dataclass(frozen=True)
class NvidiaSmiOutput(WorkflowOutput):
    """The output of nvidia-smi: its own text, and its rows."""

    host: str
    text: str
    rows: tuple[dict[str, str], ...]

    def __rich__(self) -> RenderableType:
        return Group(styled("[bold]{}[/]  {}", self.host, clock(time.time())), verbatim(self.text.rstrip()))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"host": self.host, **row} for row in self.rows]


@dataclass(frozen=True)
class GpuSampleOutput(LiveOutput):
    """The GPUs of a host at one moment of `inv gpu --watch`."""

    host: str
    time_s: float
    gpus: tuple[GpuUsage, ...]
    problem: str = ""  # why there are none, or none for this moment
    warning: str = ""  # other lines of nvidia-smi, shown once

    @property
    def place(self) -> str:
        return self.host

    def __rich__(self) -> RenderableType:
        names = Counter(gpu.name for gpu in self.gpus)
        head = styled("[bold]{}[/]  {}", self.host, clock(self.time_s) if self.time_s else "")
        head = Text("  ").join([head, *(styled("[dim]{} x {}[/]", count, name) for name, count in names.items())])
        table = table_of("", "GPU", "load", "memory", "", "temperature", "power")
        for gpu in self.gpus:
            table.add_row(str(gpu.index), load_bar(gpu.utilization_percent, BUSY_PERCENT, BAR_CELLS),
                          load_bar(memory_percent(gpu), FULL_PERCENT, BAR_CELLS), memory_words(gpu),
                          _unit(gpu.temperature_c, " °C"), _unit(gpu.power_w, " W"))
        problem = [styled("[yellow]{}[/]", words) for words in (self.problem, self.warning) if words]
        return Group(head, *problem, *([table] if self.gpus else []))

    def lines(self) -> Iterator[str]:
        """Yield a line for each GPU, or one that says why there is none."""
        if self.problem:
            yield f"{clock(time.time())}  {self.host}  {self.problem}"
            return
        if self.warning:
            yield f"{clock(self.time_s)}  {self.host}  {self.warning}"
        for gpu in self.gpus:
            yield (f"{clock(self.time_s)}  {self.host}  GPU {gpu.index}  {_unit(gpu.utilization_percent, ' %'):>5}  "
                   f"{memory_words(gpu)}  {_unit(gpu.temperature_c, ' °C')}  {_unit(gpu.power_w, ' W')}")

    def to_json(self) -> list[dict[str, Any]]:
        return [{"host": self.host, "time_s": self.time_s, **asdict(gpu)} for gpu in self.gpus]


def load_bar(percent: float | None, from_percent: float, cells: int) -> Text:
    """Draw a bar with its number, yellow up to `from_percent` and green above, so that idle GPUs stand out."""
    if percent is None:
        return Text("?")
    full = round(cells * min(percent, 100) / 100)
    colour = "green" if percent >= from_percent else "yellow"
    return styled(f"[{colour}]{{}}[/][dim]{{}}[/] {{}}", "█" * full, "░" * (cells - full), f"{percent:3.0f} %")


def memory_percent(gpu: GpuUsage) -> float | None:
    if gpu.memory_used_mib is None or not gpu.memory_total_mib:
        return None
    return 100 * gpu.memory_used_mib / gpu.memory_total_mib


def memory_words(gpu: GpuUsage) -> str:
    if gpu.memory_used_mib is None or gpu.memory_total_mib is None:
        return "?"
    return f"{gpu.memory_used_mib / 1024:.1f} of {gpu.memory_total_mib / 1024:.0f} GiB"


def _unit(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f}{unit}"
