"""Panels: the parts of the dashboard, each drawn from what is known of a run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text
from textual.content import Content
from textual.widgets import Static

from rdtops.answers import GpuUsage
from rdtops.contract.run import RunState
from rdtops.runs.overview import RunView
from rdtops.runs.poller import Update
from rdtops.runs.story import Story
from rdtops.ui.dashboard import gauges, metrics
from rdtops.ui.dashboard.feed import LOG_LINES, Refresh
from rdtops.ui.dashboard.metrics import LOSS, METRICS, VALIDATION, Metric
from rdtops.ui.dashboard.plot import RESUME, Curve, plot, sparkline
from rdtops.views.gpu_output import BUSY_PERCENT, load_bar, memory_words
from rdtops.views.journal_output import words_of
from rdtops.views.terminal import styled
from rdtops.views.words import clock, duration, speed, state_word

BAR_CELLS = 14  # of progress
LEAST_BAR_CELLS = 5
GAP = "  "
NAME_CELLS = 15  # of a metric
VALUE_CELLS = 9
LEAST_CURVE_CELLS = 6
SIGNS = {metrics.RAW: "─", metrics.MEAN: "━", metrics.HELDOUT: "•", metrics.SECOND: "╍"}  # of a curve, in the legend


@dataclass
class Known:
    """What the dashboard knows of one run. `sees_gpus`: its host trains on the machine that we log in to."""

    run: RunView
    sees_gpus: bool = True
    story: Story = field(default_factory=Story)
    latest: Update | None = None
    cpu_percent: float | None = None  # between the last two updates
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    said: dict[str, list[str]] = field(default_factory=dict)  # digest of a checkpoint -> results of the plugins
    problem: str = ""
    again_in_s: float = 0.0
    updated_s: float = 0.0  # when the host last answered, Unix time of the laptop

    def apply(self, update: Refresh) -> None:
        self.problem, self.again_in_s = update.problem, update.again_in_s
        if update.latest:
            if self.latest:
                self.cpu_percent = update.latest.usage.cpu_percent(self.latest.usage)
            self.latest, self.run, self.updated_s = update.latest, update.latest.run, update.time_s
        for event, records in update.events:
            self.story.add(event)
            for record in records:
                words = record.error or "  ".join(f"{k} {v}" for k, v in record.value.items() if v != record.digest)
                if words:
                    self.said.setdefault(record.digest, []).append(f"{record.plugin}: {words}")
        self.log.extend(update.log)

    @property
    def gpus(self) -> tuple[GpuUsage, ...]:
        """The GPUs of the run, else those of its host; none where the job runs on other machines."""
        return self.run.gpus or (self.latest.gpus if self.latest and self.sees_gpus else ())

    @property
    def why_no_gpus(self) -> str:
        if not self.sees_gpus:
            return f"on the nodes of the job: inv gpu --host {self.run.host}"
        return "nvidia-smi lists none" if self.latest else "not asked yet"


@dataclass(frozen=True)
class Shown:
    """What the user chose to see of the curves. `logarithmic` None: automatic."""

    metric: Metric = LOSS
    by_time: bool = False
    logarithmic: bool | None = None


class Head(Static):
    """Two lines: the run, its state and connection; its progress."""

    def show(self, known: Known) -> None:
        run = known.run
        self.update(styled("[bold]{}[/]  {}  {}  {}\n{}", run.run_id, run.host, state_word(run.state), _link(known),
                           self._numbers(run)))

    def _numbers(self, run: RunView) -> Text:
        """Return what fits: the bar takes the room that is left, and the speed stands in the list of curves as well."""
        share = run.step / run.max_steps if run.max_steps else 0.0
        pace = speed(run.samples_per_s, run.mfu) if run.samples_per_s else ""
        words = [f"{run.step} of {run.max_steps}", f"{100 * share:.0f} %",
                 f"loss {run.loss:.4f}" if run.loss is not None else "", pace,
                 f"{duration(run.eta_s)} to go" if run.eta_s and run.state is RunState.RUNNING else ""]
        if len(GAP.join(filter(None, words))) > self.size.width:
            words.remove(pace)
        cells = min(BAR_CELLS, self.size.width - len(GAP.join(filter(None, words))) - 1)
        full = round(cells * min(share, 1.0))
        bar = styled("[cyan]{}[/][dim]{}[/] ", "━" * full, "━" * (cells - full)) if cells >= LEAST_BAR_CELLS else ""
        first, percent, *others = words
        return Text(GAP).join([Text(first), styled("{}{}", bar, percent), *map(Text, filter(None, others))])


def _link(known: Known) -> Text:
    if known.again_in_s:
        return styled("[yellow]◌ disconnected, trying again in {} s[/]", f"{known.again_in_s:.0f}")
    if known.problem:
        return styled("[red]✗ stopped: see events[/]")
    if known.run.state.ended:
        since_s = known.updated_s - known.run.last_event_s
        ago = f" {duration(max(0.0, since_s))} ago" if known.latest and known.run.last_event_s else ""
        return styled("[dim]■ ended{}[/]", ago)
    return styled("[green]● live[/]" if known.latest else "[dim]◌ connecting[/]")


class MachinePanel(Static):
    """Two lines: the GPUs of the run; the CPU, memory and disk of its host. While the host does not answer they are
    dim, with the time of its last answer."""

    def show(self, known: Known) -> None:
        is_old = bool(known.problem and known.latest)
        since = f"{clock(known.updated_s)}{gauges.GAP}" if is_old else ""
        columns = self.size.width - len(since)
        drawn = Text("\n", no_wrap=True, overflow="ellipsis").join(
            Text(since) + line for line in (self._gpus(known, columns), self._host(known, columns)))
        if is_old:
            drawn = Text(drawn.plain, "dim", no_wrap=True, overflow="ellipsis")
        self.update(drawn)

    def _gpus(self, known: Known, columns: int) -> Text:
        warning = known.latest.gpu_warning if known.latest and known.sees_gpus else ""
        if known.gpus:
            return gauges.gpu_line(known.gpus, columns, is_own=bool(known.run.gpus), warning=warning)
        return styled("[bold]GPU[/] {}", warning or known.why_no_gpus)

    def _host(self, known: Known, columns: int) -> Text:
        if known.latest is None:
            return Text("CPU, RAM and disk: not asked yet")
        return gauges.host_line(known.latest.usage, known.cpu_percent, columns,
                                name="" if known.sees_gpus else "login node")


class CurvePanel(Static):
    """The chosen curve of a run, and of a second one."""

    def show(self, known: Known, second: Known | None, shown: Shown) -> None:
        story, other = known.story, second.story if second else None
        drawn = metrics.curves(shown.metric, story, other, by_time=shown.by_time)
        marks = metrics.resumes(story, by_time=shown.by_time)
        self.border_title = _title(shown.metric, story)
        self.border_subtitle = self._legend(drawn, second, bool(marks))
        if not drawn:
            self.update(why_empty(known, shown.metric))
            return
        self.update(plot(drawn, self.size.width, self.size.height, logarithmic=shown.logarithmic, resumes=marks,
                         by_time=shown.by_time))

    def _legend(self, drawn: list[Curve], second: Known | None, has_resumes: bool) -> Content:
        """Name each curve and its sign. A second run that has no such curve is named as well."""
        names = [(curve.style, curve.name) for curve in drawn if curve.name != "second"] if len(drawn) > 1 else []
        if second:
            run = second.run
            room = self.size.width - sum(len(name) + 4 for _, name in names)
            name = f"{run.run_id} of {run.host}"
            state = "" if any(curve.name == "second" for curve in drawn) else (
                f": {second.problem}" if second.problem else " has none" if second.latest else ": reading")
            names.append((metrics.SECOND, (name if len(name + state) <= room else run.run_id[-4:]) + state))
        parts = [Content.styled(SIGNS[style], style if style == metrics.RAW else f"ansi_{style}") + Content(f" {name}")
                 for style, name in names]
        if has_resumes:
            parts.append(Content(f"{RESUME} resume"))
        return Content("  ").join(parts)


def _title(metric: Metric, story: Story) -> Content:
    also = f", validation {VALIDATION.latest(story)}" if metric is LOSS and story.heldout else ""
    return Content(f"{metric.name} {metric.latest(story)}{also}".rstrip())


def why_empty(known: Known, metric: Metric) -> Text:
    """Say why there is no curve."""
    run, story = known.run, known.story
    if metric is VALIDATION and story.loss:
        if run.spec and not (run.spec.train.heldout_share and run.spec.train.heldout_samples):
            return Text("no validation loss: this run holds no samples out", "dim")
        return Text("no validation loss yet", "dim")
    if story.loss:
        return Text(f"no {metric.name} in the Journal of this run", "dim")
    if run.silent_since_s:
        return styled("[yellow]no step yet, and nothing was written since {}[/]\n-> inv why --host {} --run {}",
                      clock(run.silent_since_s), run.host, run.run_id)
    last = story.others[-1] if story.others else None
    said = f"{clock(last.time_s)} {words_of(last, run.max_steps)}" if last else ""
    said = run.job.words if run.job and run.job.words and run.state is not RunState.RUNNING else said
    return styled("[dim]no step yet{}[/]", f"; {said}" if said else "")


class MetricPanel(Static):
    """Every metric with its key, its newest value and a small curve; the chosen one is marked."""

    def show(self, known: Known, shown: Shown) -> None:
        cells = self.size.width - NAME_CELLS - VALUE_CELLS - 6
        self.border_title = "curves"
        self.update(Text("\n", no_wrap=True).join(self._row(metric, known, shown, cells) for metric in METRICS))

    def _row(self, metric: Metric, known: Known, shown: Shown, cells: int) -> Text:
        mark = "▸" if metric is shown.metric else " "
        has_room = cells >= LEAST_CURVE_CELLS
        curve = sparkline(metric.points(known.story), cells, dips=metric.dips) if has_room else ""
        row = styled("[bold]{} {}[/] {} {} [cyan]{}[/]", mark, metric.key, metric.name.ljust(NAME_CELLS),
                     (metric.latest(known.story) or "none").rjust(VALUE_CELLS), curve)
        return styled("[bold]{}[/]", row) if metric is shown.metric else row


class SplitPanel(Static):
    """The time of a step by phase; where not all have room, the longest ones."""

    def show(self, known: Known) -> None:
        step_s, split = known.story.step_s, known.story.split
        self.border_title = f"a step {step_s:.2f} s" if step_s else "a step"
        if not split:
            self.update(Text("no step yet", "dim"))
            return
        room = max(1, self.size.height)
        longest = sorted(split, key=lambda word: -split[word])[:room]
        self.border_subtitle = "" if len(longest) == len(split) else "the longest phases"
        table, cells = Table.grid(padding=(0, 1)), max(4, self.size.width - 26)
        for word in (word for word in split if word in longest):
            share = min(1.0, split[word] / step_s)
            full = round(cells * share)
            table.add_row(word, styled("[cyan]{}[/][dim]{}[/]", "█" * full, "░" * (cells - full)),
                          Text(f"{split[word]:.3f} s", justify="right"), Text(f"{100 * share:.0f} %", justify="right"))
        self.update(table)


class GpuPanel(Static):
    """A line for each GPU of the run, or of its host when the run uses none."""

    def show(self, known: Known) -> None:
        own = known.run.gpus
        self.border_title = "GPUs of the run" if own else "GPUs of the host"
        self.border_subtitle = "" if own or not known.gpus else "the run uses none"
        self.update(self._table(known.gpus) if known.gpus else Text(known.why_no_gpus, "dim"))

    def _table(self, gpus: tuple[GpuUsage, ...]) -> Table:
        table, cells = Table.grid(padding=(0, 1)), max(4, min(30, self.size.width - 40))
        for gpu in gpus:
            table.add_row(str(gpu.index), load_bar(gpu.utilization_percent, BUSY_PERCENT, cells), memory_words(gpu),
                          *(Text(words, justify="right") for words in heat_words(gpu)))
        return table


def heat_words(gpu: GpuUsage) -> tuple[str, str]:
    """Return the temperature and the power of a GPU."""
    return ("?" if gpu.temperature_c is None else f"{gpu.temperature_c} °C",
            "?" if gpu.power_w is None else f"{gpu.power_w:.0f} W")
