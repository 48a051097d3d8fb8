"""App: shows one run at a time, and polls every chosen run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.filter import LineFilter
from textual.message import Message
from textual.widgets import DataTable, Footer, RichLog, TabbedContent, TabPane

from rdtops.plugging.registry import Registry
from rdtops.runs.overview import RunView
from rdtops.runs.watch import Seen
from rdtops.ssh.connection import Connection
from rdtops.ssh.display import log_text, printable
from rdtops.ui.dashboard.feed import REFRESH_S, Feed, Refresh
from rdtops.ui.dashboard.panels import GpuPanel, Head, Known, LossPanel, SplitPanel
from rdtops.views.journal_output import words_of
from rdtops.views.words import clock, duration, heldout_words, size

RunKey = tuple[str, str]  # host, run id
MOST_LINES = 1000  # of scrollback


@dataclass(frozen=True)
class Choice:
    """The runs of one host that can be watched."""

    host: str
    runs: Sequence[RunView]
    connect: Callable[[], Connection]


class Lines(RichLog):
    """A log that stays at its end unless the user scrolls up. Its lines are wrapped again for each width; a hidden tab
    has no width."""

    def __init__(self, name: str, *, wrap: bool) -> None:
        super().__init__(id=name, max_lines=MOST_LINES, wrap=wrap, min_width=1)
        self._kept: deque[Text] = deque(maxlen=MOST_LINES)

    def add(self, text: str, style: str = "") -> None:
        words = Text(log_text(text), style)
        self._kept.append(words)
        if self.size.width:
            self.write(words, scroll_end=not self.has_focus or self.is_vertical_scroll_end)

    def forget(self) -> None:
        self._kept.clear()
        self.clear()

    def on_resize(self, _: Resize) -> None:
        self.clear()
        if self.size.width:
            for words in self._kept:
                self.write(words, scroll_end=True)


class Cells(DataTable[Text]):
    """A table whose cells are text, not markup."""

    def add(self, *cells: str | Text, key: str | None = None) -> None:
        self.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells), key=key)


class Escaped(LineFilter):
    """A filter that escapes all that widgets draw, titles and notifications too. Lines are wrapped already, so a
    replacement keeps the width; expected control codes were escaped before."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        return [segment if segment.control or segment.text == printable(segment.text) else segment._replace(
            text="".join(c if c == printable(c) else "?" * cell_len(c) for c in segment.text)) for segment in segments]


class Dashboard(App[None]):
    """The dashboard. `chosen` are polled from the start, others once selected; plugins are called for all of them."""

    CSS = """
    Screen { layout: vertical; }
    Head { height: 2; padding: 0 1; background: $panel; }
    #above { height: 45%; min-height: 9; }
    #above > * { border: round $primary; padding: 0 1; }
    LossPanel { width: 1fr; height: 100%; }
    #beside { width: 42; height: 100%; border: none; padding: 0; }
    #beside > * { border: round $primary; padding: 0 1; }
    SplitPanel { height: 1fr; min-height: 5; }
    #small-gpus { height: auto; max-height: 50%; display: none; }
    #large-gpus { height: 1fr; }
    .-wide #beside { width: 56; }
    .-tall #small-gpus { display: block; }
    #below { height: 1fr; }
    TabbedContent { width: 1fr; }
    TabPane { padding: 0 1; }
    #aside { display: none; width: 1fr; border: round $primary; padding: 0 1; }
    .-wide #aside { display: block; }
    .-full #above { display: none; }
    RichLog, DataTable { scrollbar-size-vertical: 1; background: $surface; }
    """
    TITLE = "rdtops watch"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (130, "-wide")]  # noqa: RUF012  # Textual declares them so
    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "tab('events')", "events"), Binding("2", "tab('log')", "log"),
        Binding("3", "tab('saved')", "saved"), Binding("4", "tab('gpus')", "GPUs"),
        Binding("5", "tab('runs')", "runs"), Binding("n", "next", "next"),
        Binding("y", "scale", "scale"), Binding("f", "full", "full"), Binding("q", "quit", "quit")]

    class Updated(Message):
        """An update of a run."""

        def __init__(self, update: Refresh) -> None:
            super().__init__()
            self.update = update

    def __init__(self, choices: Sequence[Choice], chosen: Sequence[RunView], registry: Registry, *,
                 refresh_s: float = REFRESH_S) -> None:
        super().__init__()
        self.choices = {choice.host: choice for choice in choices}
        self.registry, self.refresh_s = registry, refresh_s
        self.known: dict[RunKey, Known] = {(r.host, r.run_id): Known(r) for c in choices for r in c.runs}
        self.feeds: dict[RunKey, Feed] = {}
        self.chosen = [(run.host, run.run_id) for run in chosen]
        self.current: RunKey = self.chosen[0]

    # --- the screen

    def compose(self) -> ComposeResult:
        yield Head()
        with Horizontal(id="above"):
            yield LossPanel()
            with Vertical(id="beside"):
                yield SplitPanel()
                yield GpuPanel(id="small-gpus")
        with Horizontal(id="below"):
            with TabbedContent(id="tabs"):
                with TabPane("events", id="events"):
                    yield Lines("event-lines", wrap=True)
                with TabPane("log", id="log"):
                    yield Lines("log-lines", wrap=False)
                with TabPane("checkpoints", id="saved"):
                    yield Cells(id="checkpoints", cursor_type="none")
                with TabPane("GPUs", id="gpus"):
                    yield GpuPanel(id="large-gpus")
                with TabPane("runs", id="runs"):
                    yield Cells(id="run-rows", cursor_type="row")
            yield Lines("aside", wrap=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#aside").border_title = "log"
        self.query_one("#checkpoints", Cells).add_columns("", "step", "size", "validation loss", "digest", "plugins")
        self.query_one("#run-rows", Cells).add_columns("", "host", "run", "state", "step", "loss", "to go")
        for key in self.chosen:
            self._follow(key)
        self._select(self.current)

    def on_unmount(self) -> None:
        for feed in self.feeds.values():
            feed.stop()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_panels)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), Escaped()]

    # --- updates from the hosts

    def on_dashboard_updated(self, message: Updated) -> None:
        if not self.is_running:  # it is closing: its panels are removed one by one
            return
        update = message.update
        key = (update.host, update.run_id)
        is_news = bool(update.problem) != bool(self.known[key].problem)
        self.known[key].apply(update)
        if key == self.current and is_news:
            self.query_one("#event-lines", Lines).add(update.problem or "Reconnected.",
                                                      "yellow" if update.problem else "green")
        if key == self.current:
            self._show_lines(update)
            self._show_panels()
        self._show_runs()

    def _follow(self, key: RunKey) -> None:
        if key in self.feeds:
            return
        feed = Feed(self.choices[key[0]].connect, self.registry, self.known[key].run,
                    lambda update: self.post_message(self.Updated(update)), self.refresh_s)
        self.feeds[key] = feed
        feed.start()

    # --- actions of the user

    def action_tab(self, name: str) -> None:
        self.query_one("#tabs", TabbedContent).active = name

    def action_scale(self) -> None:
        panel = self.query_one(LossPanel)
        panel.logarithmic = not panel.logarithmic
        self._show_panels()

    def action_full(self) -> None:
        self.screen.toggle_class("-full")

    def action_next(self) -> None:
        """Show the next of the polled runs."""
        keys = list(self.feeds)
        self._select(keys[(keys.index(self.current) + 1) % len(keys)])

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        host, _, run_id = str(event.row_key.value).partition("/")
        self._follow((host, run_id))
        self._select((host, run_id))

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
        self.query_one(Head).show(known)
        self.query_one(LossPanel).show(known)
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
            events.add(f"{clock(event.time_s)}  {words_of(event, max_steps)}")
            for record in records:
                if record.error:
                    events.add(f"          {record.plugin}: {record.error}", "red")
        for line in update.log:
            self.query_one("#log-lines", Lines).add(line)
            self.query_one("#aside", Lines).add(line)

    def _show_checkpoints(self, known: Known) -> None:
        table = self.query_one("#checkpoints", Cells)
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
