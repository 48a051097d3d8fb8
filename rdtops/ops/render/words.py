"""Words and tables that several things share: sizes, durations, signs."""

from __future__ import annotations

import time

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text as Styled

from rdtops.checks import Status
from rdtops.contract.run import RunState

SIGNS = {Status.OK: "[green]OK[/]  ", Status.WARN: "[yellow]WARN[/]", Status.FAIL: "[bold red]FAIL[/]",
         Status.SKIP: "[dim]SKIP[/]"}
STATE_STYLE = {RunState.RUNNING: "cyan", RunState.FINISHED: "green", RunState.FAILED: "bold red",
               RunState.LOST: "bold red", RunState.STOPPED: "yellow", RunState.PREPARED: "dim",
               RunState.QUEUED: "yellow", RunState.UNKNOWN: "bold yellow"}


def size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.2f} GB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s))


def heldout_words(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.6f}"


def exit_words(code: int | None) -> str:
    return f"exit {code}" if code is not None else "no exit code: killed, or the host rebooted"


def verbatim(text: str) -> Group:
    """Lines as they are, whatever the width: they may be pasted. A group, since rich wraps a text that comes alone."""
    return Group(Styled(text, no_wrap=True, overflow="ignore"))


def table_of(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    return table


def grid_of(pairs: dict[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for key, value in pairs.items():
        grid.add_row(key, escape(value))
    return grid
