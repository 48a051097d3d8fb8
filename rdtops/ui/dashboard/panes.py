"""Panes: logs and tables that show what a host says as text, never as markup or control codes."""

from __future__ import annotations

from collections import deque

from rich.cells import cell_len
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from textual.color import Color
from textual.events import Resize
from textual.filter import LineFilter
from textual.widgets import DataTable, RichLog

from rdtops.ssh.display import log_text, printable

MOST_LINES = 1000  # of scrollback
CLOCK_CELLS = 8


class Lines(RichLog):
    """A log that stays at its end unless the user scrolls up. Its lines are wrapped again for each width; a hidden tab
    has no width."""

    def __init__(self, name: str, *, wrap: bool) -> None:
        super().__init__(id=name, max_lines=MOST_LINES, wrap=wrap, min_width=1)
        self._kept: deque[Text | Table] = deque(maxlen=MOST_LINES)

    def add(self, text: str, style: str = "", at: str = "") -> None:
        """Add a text; `at`: the time beside it, below which the text is not wrapped."""
        words: Text | Table = Text(log_text(text), style)
        if at:
            line = Table.grid(padding=(0, 2, 0, 0))
            line.add_column(width=CLOCK_CELLS, no_wrap=True)
            line.add_row(Text(at), words)
            words = line
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
