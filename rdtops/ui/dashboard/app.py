"""App: shows one run at a time, and polls every chosen run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.filter import LineFilter
from textual.message import Message
from textual.widgets import DataTable, Footer, TabbedContent, TabPane

from rdtops.contract.journal import Event
from rdtops.plugging.registry import Registry
from rdtops.runs.overview import RunView
from rdtops.runs.watch import Seen
from rdtops.ssh.connection import Connection
from rdtops.ui.dashboard.dialogs import NO_RUN, HelpDialog, RunDialog
from rdtops.ui.dashboard.feed import REFRESH_S, Feed, Refresh
from rdtops.ui.dashboard.metrics import METRICS
from rdtops.ui.dashboard.panels import (
    CurvePanel,
    GpuPanel,
    Head,
    Known,
    MachinePanel,
    MetricPanel,
    Shown,
    SplitPanel,
)
from rdtops.ui.dashboard.panes import Cells, Escaped, Lines
from rdtops.views.journal_output import words_of
from rdtops.views.words import clock, duration, heldout_words, size

RunKey = tuple[str, str]  # host, run id
DIGEST_LETTERS = 8  # of a checkpoint's, in the events
SCROLL_KEYS = (("arrows, PgUp, PgDn", "scroll"), ("Tab", "the next list or log"))
TABS = (("events", "what happened in the run"), ("log", "the end of train.log"),
        ("checkpoints", "the checkpoints, and what plugins say of them"), ("GPUs", "a line for each GPU"),
        ("runs", "the runs of every host; Enter follows that one as well, and shows it"))


@dataclass(frozen=True)
class Choice:
    """The runs of one host that can be watched. `sees_gpus`: they run on the machine that we log in to."""

    host: str
    runs: Sequence[RunView]
    connect: Callable[[], Connection]
    sees_gpus: bool = True


def bindings() -> Iterator[Binding]:
    """Yield every key: a word for the footer, and what the help says. Keys of curves and panes stand beside them."""
    yield Binding("question_mark", "help", "help", tooltip="this help", key_display="?")
    yield Binding("q", "quit", "quit", tooltip="quit; the run continues on the host")
    for number, metric in enumerate(METRICS):
        also = ", with the validation loss" if number == 0 else ""
        yield Binding(metric.key, f"metric({number})", metric.name, tooltip=f"curve: {metric.name}{also}", show=False)
    yield Binding("x", "axis", "step/time", tooltip="over steps, or over the time since the launch")
    yield Binding("y", "scale", "scale", tooltip="logarithmic or linear; at first whichever shows more")
    yield Binding("c", "compare", "compare", tooltip="lay a second run over this one, or none")
    for number, (name, words) in enumerate(TABS, 1):
        yield Binding(str(number), f"tab('{name.lower()}')", name, tooltip=words, show=False)
    yield Binding("n", "next", "next", tooltip="the next of the runs that are followed")
    yield Binding("f", "full", "full", tooltip="the lower half on the whole screen, and back")


class Dashboard(App[None]):
    """The dashboard. `chosen` are polled from the start, others once selected; plugins are called for all of them."""

    CSS = """
    Screen { layout: vertical; }
    Head, MachinePanel { height: 2; padding: 0 1; }
    #above > *, #beside > *, #aside { border: round $foreground 50%; padding: 0 1; }
    #above { height: 17; layout: horizontal; }
    CurvePanel { width: 1fr; height: 1fr; }
    #above > #beside { width: 42; height: 100%; border: none; padding: 0; }
    #beside > MetricPanel { height: 7; }
    SplitPanel { height: 1fr; }
    #small-gpus { height: auto; max-height: 10; display: none; }
    #below { height: 1fr; layout: horizontal; }
    TabbedContent { width: 1fr; }
    TabPane { padding: 0 1; }
    Tabs { height: 1; }
    Tabs Underline { display: none; }
    #below > #aside { display: none; width: 1fr; border: none; border-left: solid $foreground 50%; }
    RichLog, DataTable { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    DataTable > .datatable--header { background: $background; color: $foreground; }
    RichLog, DataTable, OptionList, VerticalScroll {
        scrollbar-background: ansi_default; scrollbar-background-hover: ansi_default;
        scrollbar-background-active: ansi_default; scrollbar-color: ansi_bright_black;
        scrollbar-color-hover: ansi_bright_black; scrollbar-color-active: ansi_bright_black; }

    .-side #above { height: 13; }
    .-side #above > #beside { width: 36; }
    .-wide #below > #aside, .-broad #below > #aside { display: block; }
    .-broad #above > #beside { width: 56; }
    .-tall #above { height: 27; }
    .-tall #small-gpus { display: block; }

    .-stacked #above { layout: vertical; height: 15; }
    .-stacked #above > #beside { width: 100%; height: 5; }
    .-stacked #beside > MetricPanel { border: none; height: 5; }
    .-stacked #beside > SplitPanel { display: none; }
    .-stacked.-tall #above { height: 28; }
    .-stacked.-tall #above > #beside { height: 15; }
    .-stacked.-tall #beside > SplitPanel { display: block; }
    .-stacked #beside > #small-gpus { display: none; }
    .-full #above, .-full #below > #aside { display: none; }
    """
    TITLE = "rdtops watch"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (80, "-side"), (100, "-wide"), (130, "-broad")]  # noqa: RUF012  # so
    VERTICAL_BREAKPOINTS = [(0, "-low"), (40, "-tall")]  # noqa: RUF012  # Textual declares them so
    BINDINGS: ClassVar[list[BindingType]] = list(bindings())

    class Updated(Message):
        """An update of a run, from a feed that may have been cancelled since."""

        def __init__(self, update: Refresh, feed: Feed | None = None) -> None:
            super().__init__()
            self.update, self.feed = update, feed

    def __init__(self, choices: Sequence[Choice], chosen: Sequence[RunView], registry: Registry, *,
                 refresh_s: float = REFRESH_S) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"  # the terminal's own 16 colours, on its own background, be it dark or light
        self.choices = {choice.host: choice for choice in choices}
        self.registry, self.refresh_s = registry, refresh_s
        self.known: dict[RunKey, Known] = {(r.host, r.run_id): Known(r, c.sees_gpus) for c in choices for r in c.runs}
        self.feeds: dict[RunKey, Feed] = {}  # of the runs that are followed
        self.readers: dict[RunKey, Feed] = {}  # of those that are only read
        self.chosen = [(run.host, run.run_id) for run in chosen]
        self.current: RunKey = self.chosen[0]
        self.second: RunKey | None = None  # laid over the current one
        self.shown = Shown()

    # --- the screen

    def compose(self) -> ComposeResult:
        yield Head()
        yield MachinePanel()
        with Container(id="above"):
            yield CurvePanel()
            with Vertical(id="beside"):
                yield MetricPanel()
                yield SplitPanel()
                yield GpuPanel(id="small-gpus")
        with Container(id="below"):
            with TabbedContent(id="tabs"):
                with TabPane("1 events", id="events"):
                    yield Lines("event-lines", wrap=True)
                with TabPane("2 log", id="log"):
                    yield Lines("log-lines", wrap=False)
                with TabPane("3 checkpoints", id="checkpoints"):
                    yield Cells(id="checkpoint-rows", cursor_type="none")
                with TabPane("4 GPUs", id="gpus"):
                    yield GpuPanel(id="large-gpus")
                with TabPane("5 runs", id="runs"):
                    yield Cells(id="run-rows", cursor_type="row")
            yield Lines("aside", wrap=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self.query_one("#checkpoint-rows", Cells).add_columns("", "step", "size", "validation loss", "digest",
                                                              "plugins")
        self.query_one("#run-rows", Cells).add_columns("", "host", "run", "state", "step", "loss", "to go")
        for key in self.chosen:
            self._follow(key)
        self._select(self.current)

    def on_unmount(self) -> None:
        for feed in (*self.feeds.values(), *self.readers.values()):
            feed.stop()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_panels)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), Escaped()]

    # --- updates from the hosts

    def on_dashboard_updated(self, message: Updated) -> None:
        if not self.is_running:  # it is closing: its panels are removed one by one
            return
        if message.feed and message.feed.is_cancelled:
            return
        update = message.update
        key = (update.host, update.run_id)
        is_news = bool(update.problem) != bool(self.known[key].problem)
        self.known[key].apply(update)
        if key == self.current:
            if is_news:
                self.query_one("#event-lines", Lines).add(update.problem or "Reconnected.",
                                                          "yellow" if update.problem else "green")
            self._show_lines(update)
        if key in (self.current, self.second):
            self._show_panels()
        self._show_runs()

    def _follow(self, key: RunKey) -> None:
        if key not in self.feeds:
            if key in self.readers:  # following begins anew, with the plugins
                self._stop_reading(key)
            self.feeds[key] = self._begin(key, self.registry)

    def _read(self, key: RunKey) -> None:
        if key not in self.feeds and key not in self.readers:
            self.readers[key] = self._begin(key, None)

    def _stop_reading(self, key: RunKey) -> None:
        self.readers.pop(key).cancel()
        self.known[key] = Known(self.known[key].run, self.known[key].sees_gpus)

    def _begin(self, key: RunKey, registry: Registry | None) -> Feed:
        feed = Feed(self.choices[key[0]].connect, registry, self.known[key].run,
                    lambda update: self.post_message(self.Updated(update, feed)), self.refresh_s)
        feed.start()
        return feed

    # --- actions of the user

    def action_help_quit(self) -> None:
        """Quit at Ctrl-C too: the run continues, and Textual's own answer names another key."""
        self.exit()

    def action_help(self) -> None:
        keys = [(self.get_key_display(key), key.tooltip) for key in bindings()]
        self.push_screen(HelpDialog([*keys, *SCROLL_KEYS]))

    def action_metric(self, number: int) -> None:
        self._change(metric=METRICS[number])

    def action_axis(self) -> None:
        self._change(by_time=not self.shown.by_time)

    def action_scale(self) -> None:
        self._change(logarithmic=not self.shown.logarithmic)

    def action_compare(self) -> None:
        runs = [known.run for key, known in self.known.items() if key != self.current]
        self.push_screen(RunDialog(runs), self._compare)

    def action_tab(self, name: str) -> None:
        self.query_one("#tabs", TabbedContent).active = name

    def action_full(self) -> None:
        self.screen.toggle_class("-full")

    def action_next(self) -> None:
        """Show the next of the followed runs."""
        keys = list(self.feeds)
        self._select(keys[(keys.index(self.current) + 1) % len(keys)])

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        host, _, run_id = str(event.row_key.value).partition("/")
        self._follow((host, run_id))
        self._select((host, run_id))

    def _compare(self, chosen: str | None) -> None:
        if chosen is None:
            return
        host, _, run_id = chosen.partition("/")
        second = None if chosen == NO_RUN else (host, run_id)
        if self.second in self.readers and self.second != second:
            self._stop_reading(self.second)
        self.second = second
        if second:
            self._read(second)
        self._show_panels()

    def _change(self, **changes: object) -> None:
        self.shown = replace(self.shown, **changes)  # type: ignore[arg-type]
        self._show_panels()

    def _select(self, key: RunKey) -> None:
        self.current = key
        known = self.known[key]
        for name in ("#event-lines", "#log-lines", "#aside"):
            self.query_one(name, Lines).forget()
        events: tuple[Seen, ...] = tuple((event, []) for event in known.story.others[-200:])
        self._show_lines(Refresh(*key, events=events, log=tuple(known.log)))
        self._show_panels()
        self._show_runs()

    # --- drawing

    def _show_panels(self) -> None:
        known = self.known[self.current]
        second = self.known[self.second] if self.second and self.second != self.current else None
        self.query_one(Head).show(known)
        self.query_one(MachinePanel).show(known)
        self.query_one(CurvePanel).show(known, second, self.shown)
        self.query_one(MetricPanel).show(known, self.shown)
        self.query_one(SplitPanel).show(known)
        for panel in self.query(GpuPanel):
            panel.show(known)
        self._show_checkpoints(known)

    def _show_lines(self, update: Refresh) -> None:
        events = self.query_one("#event-lines", Lines)
        max_steps = self.known[self.current].run.max_steps
        for event, records in update.events:
            if event.kind == "step":
                continue
            events.add(words_of(_short(event), max_steps), at=clock(event.time_s))
            for record in records:
                if record.error:
                    events.add(f"{record.plugin}: {record.error}", "red", at=" ")
        for line in update.log:
            self.query_one("#log-lines", Lines).add(line)
            self.query_one("#aside", Lines).add(line)

    def _show_checkpoints(self, known: Known) -> None:
        table = self.query_one("#checkpoint-rows", Cells)
        table.clear()
        best, latest = known.story.best, known.story.latest
        for saved in sorted(known.story.checkpoints.values(), key=lambda c: -c.step):
            marks = ", ".join(word for word, one in (("best", best), ("latest", latest)) if one is saved)
            table.add(Text(marks, style="bold"), str(saved.step), size(saved.size_bytes),
                      heldout_words(saved.heldout_loss), saved.digest, "; ".join(known.said.get(saved.digest, ())))

    def _show_runs(self) -> None:
        table = self.query_one("#run-rows", Cells)
        row = table.cursor_row
        table.clear()
        for (host, run_id), known in self.known.items():
            run, is_followed = known.run, (host, run_id) in self.feeds
            mark = "▶" if (host, run_id) == self.current else "•" if is_followed else ""
            table.add(mark, host, run_id, run.state.value, f"{run.step} of {run.max_steps}",
                      "" if run.loss is None else f"{run.loss:.4f}",
                      duration(run.eta_s) if run.eta_s and not run.state.ended else "", key=f"{host}/{run_id}")
        table.move_cursor(row=min(row, table.row_count - 1))


def _short(event: Event) -> Event:
    """Return the event of a checkpoint with the beginning of its digest, which is whole in the list of checkpoints."""
    digest = event.data.get("digest")
    if event.kind != "checkpoint" or not isinstance(digest, str):
        return event
    return replace(event, data={**event.data, "digest": digest[:DIGEST_LETTERS]})
