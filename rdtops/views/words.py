"""Words: sizes, durations, signs and tables that several outputs share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text as Styled

from rdtops.checks import Status
from rdtops.contract import exit_codes
from rdtops.contract.run import RunState
from rdtops.hostlib.fields import number
from rdtops.ssh.display import log_text, printable, size_words
from rdtops.views.terminal import styled

SIGNS = {Status.OK: styled("[green]OK[/]  "), Status.WARN: styled("[yellow]WARN[/]"),
         Status.FAIL: styled("[bold red]FAIL[/]"), Status.SKIP: styled("[dim]SKIP[/]")}
STATE_STYLE = {RunState.RUNNING: "cyan", RunState.FINISHED: "green", RunState.FAILED: "bold red",
               RunState.LOST: "bold red", RunState.STOPPED: "yellow", RunState.PREPARED: "dim",
               RunState.QUEUED: "yellow", RunState.UNKNOWN: "bold yellow"}


def size(size_bytes: float) -> str:
    """Return a size in words, for any number that a host sends."""
    known = number(size_bytes)
    return "?" if known is None else size_words(int(known))


def speed(samples_per_s: float | None, mfu: float | None = None) -> str:
    """Return text such as `148.2 samples/s, MFU 41 %`, or without what is not known."""
    return f"{samples_per_s or 0:.1f} samples/s" + (f", {mfu_words(mfu)}" if mfu_words(mfu) else "")


def mfu_words(mfu: float | None) -> str:
    """Return the share of a GPU's peak that useful arithmetic takes; '' where it is not known."""
    share = number(mfu)
    return "" if share is None else f"MFU {100 * share:.0f} %"


def duration(seconds: float | None) -> str:
    if number(seconds) is None:
        return "?"
    assert seconds is not None
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def clock(time_s: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(time_s))
    except (OverflowError, ValueError, OSError):
        return "?"


def heldout_words(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.6f}"


def exit_words(code: int | None) -> str:
    if code is None:
        return "no exit code: killed, or the host rebooted"
    return exit_codes.words(code) if exit_codes.is_signal(code) else f"exit {code}"


def state_word(state: RunState, width: int = 0) -> Styled:
    return Styled(state.value.ljust(width), STATE_STYLE[state])


def last_lines(log_tail: str, indent: str) -> str:
    """Return the last lines of a failed run's log."""
    return f"\n{indent}".join(log_text(log_tail).strip().splitlines()[-6:])


def verbatim(text: str) -> Group:
    """Return lines unwrapped, so that they can be copied. A group, since rich wraps a single text."""
    return Group(Styled(log_text(text), no_wrap=True, overflow="ignore"))


def unbroken(line: Styled) -> Group:
    """Return a line that only the terminal wraps, so that a command in it can be pasted."""
    line.no_wrap, line.overflow = True, "ignore"
    return Group(line)


def stacked(*lines: Styled) -> Styled:
    return Styled("\n").join(lines)


class Rows(Table):
    """A table whose cells are text, not markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(Styled(printable(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def table_of(title: str, *columns: str) -> Rows:
    table = Rows(title=Styled(printable(title)) if title else None, title_justify="left", title_style="bold", box=None,
                 pad_edge=False)
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    return table


def grid_of(pairs: Mapping[str, str | Styled]) -> Rows:
    grid = Rows(box=None, padding=(0, 2), collapse_padding=True, show_header=False, pad_edge=False)  # Table.grid
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for key, value in pairs.items():
        grid.add_row(key, value)
    return grid
