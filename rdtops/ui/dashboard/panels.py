"""Panels: the parts of the dashboard, each drawn from the data of a run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text
from textual.widgets import Static

from rdtops.answers import GpuUsage
from rdtops.contract.run import RunState
from rdtops.runs.overview import RunView
from rdtops.runs.poller import Update
from rdtops.runs.story import Story, smoothed
from rdtops.ui.dashboard.feed import LOG_LINES, Refresh
from rdtops.ui.dashboard.plot import Curve, plot
from rdtops.views.gpu_output import BUSY_PERCENT, load_bar, memory_words
from rdtops.views.terminal import styled
from rdtops.views.words import duration, state_word

PROGRESS_CELLS = 14
HOST_GPUS = 8  # shown of a host when the run uses none


@dataclass
class Known:
    """What the dashboard knows of one run."""

    run: RunView
    story: Story = field(default_factory=Story)
    latest: Update | None = None
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    said: dict[str, list[str]] = field(default_factory=dict)  # digest of a checkpoint -> results of the plugins
    problem: str = ""
    again_in_s: float = 0.0

    def apply(self, update: Refresh) -> None:
        self.problem, self.again_in_s = update.problem, update.again_in_s
        if update.latest:
            self.latest, self.run = update.latest, update.latest.run
        for event, records in update.events:
            self.story.add(event)
            for record in records:
                words = record.error or "  ".join(f"{k} {v}" for k, v in record.value.items() if v != record.digest)
                if words:
                    self.said.setdefault(record.digest, []).append(f"{record.plugin}: {words}")
        self.log.extend(update.log)


class Head(Static):
    """Two lines: the run, its state and connection; its progress."""

    def show(self, known: Known) -> None:
        run = known.run
        self.update(styled("[bold]{}[/]  {}  {}  {}\n{}", run.run_id, run.host, state_word(run.state), _link(known),
                           self._numbers(run)))

    def _numbers(self, run: RunView) -> Text:
        share = run.step / run.max_steps if run.max_steps else 0.0
        full = round(PROGRESS_CELLS * min(share, 1.0))
        bar = styled("[cyan]{}[/][dim]{}[/] {} %", "━" * full, "━" * (PROGRESS_CELLS - full), f"{100 * share:.0f}")
        facts = [f"{run.step} of {run.max_steps}", bar,
                 f"loss {run.loss:.4f}" if run.loss is not None else "",
                 f"{run.samples_per_s:.1f} samples/s" if run.samples_per_s else "",
                 f"{duration(run.eta_s)} to go" if run.eta_s and run.state is RunState.RUNNING else ""]
        return Text("  ").join(styled("{}", fact) for fact in facts if fact)


def _link(known: Known) -> Text:
    if known.again_in_s:
        return styled("[yellow]◌ disconnected, trying again in {} s[/]", f"{known.again_in_s:.0f}")
    if known.problem:
        return styled("[red]✗ stopped: see events[/]")
    if known.run.state.ended:
        return styled("[dim]■ ended[/]")
    return styled("[green]● live[/]" if known.latest else "[dim]◌ connecting[/]")


class LossPanel(Static):
    """The loss of each recorded step, and the validation loss."""

    logarithmic: bool | None = None

    def show(self, known: Known) -> None:
        story = known.story
        self.border_title = f"loss {known.run.loss:.4f}" if known.run.loss is not None else "loss"
        self.border_subtitle = f"validation {story.heldout[-1][1]:.4f}" if story.heldout else ""
        curves = [Curve("loss", story.loss, "bright_black"), Curve("mean", smoothed(story.loss), "bold cyan"),
                  Curve("validation", story.heldout, "bold yellow")]
        self.update(plot(curves, self.size.width, self.size.height, logarithmic=self.logarithmic))


class SplitPanel(Static):
    """The time of a step by phase."""

    def show(self, known: Known) -> None:
        step_s, split = known.story.step_s, known.story.split
        self.border_title = f"a step {step_s:.2f} s" if step_s else "a step"
        if not split:
            self.update(Text("no step yet", "dim"))
            return
        table, cells = Table.grid(padding=(0, 1)), max(4, self.size.width - 26)
        for word, seconds in split.items():
            share = min(1.0, seconds / step_s)
            full = round(cells * share)
            table.add_row(word, styled("[cyan]{}[/][dim]{}[/]", "█" * full, "░" * (cells - full)),
                          Text(f"{seconds:.3f} s", justify="right"), Text(f"{100 * share:.0f} %", justify="right"))
        self.update(table)


class GpuPanel(Static):
    """The GPUs of the run, or those of its host when the run uses none."""

    def show(self, known: Known) -> None:
        own = known.run.gpus
        shown = own or (known.latest.gpus[:HOST_GPUS] if known.latest else ())
        self.border_title = "GPUs of the run" if own else "GPUs of the host"
        self.border_subtitle = "" if own or not shown else "the run uses none"
        self.update(self._table(shown) if shown else Text("nvidia-smi shows none", "dim"))

    def _table(self, gpus: tuple[GpuUsage, ...]) -> Table:
        table, cells = Table.grid(padding=(0, 1)), max(4, self.size.width - 26)
        for gpu in gpus:
            table.add_row(str(gpu.index), load_bar(gpu.utilization_percent, BUSY_PERCENT, cells), memory_words(gpu))
        return table
