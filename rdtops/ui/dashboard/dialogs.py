"""Dialogs: the keys of the dashboard, and the choice of a second run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from rdtops.runs.overview import RunView
from rdtops.views.terminal import styled
from rdtops.views.words import state_word

NO_RUN = "none"  # the choice of no second run
LEGEND = ("[dim]─[/] each step that was logged  [cyan]━[/] mean over a twentieth of them  [green]•[/] validation loss\n"
          "[magenta]╍[/] second run, in the same units  ┊ resumed from a checkpoint\n"
          "In each line of GPUs: the load of each as a bar, the mean, the memory of all, the hottest one, "
          "the power of all")


class Dialog(ModalScreen[str | None]):
    """A box in front of the dashboard, which goes on behind it."""

    DEFAULT_CSS = """
    Dialog { align: center middle; background: transparent; }
    Dialog > * { width: 90%; max-width: 96; height: auto; max-height: 90%; border: round $foreground; padding: 0 1;
                 background: $background; }
    Dialog OptionList, Dialog OptionList:focus { border: none; padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "close", "close")]

    def action_close(self) -> None:
        self.dismiss(None)


class HelpDialog(Dialog):
    """Every key and what it does."""

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self.keys = tuple(keys)

    def compose(self) -> ComposeResult:
        table = Table.grid(padding=(0, 2))
        for key, words in self.keys:
            table.add_row(Text(key, "bold"), words)
        with VerticalScroll() as box:
            box.border_title = "keys"
            box.border_subtitle = "Esc closes"
            yield Static(table)
            yield Static(styled("\n" + LEGEND))


class RunDialog(Dialog):
    """The choice of a second run; its answer is "host/run", NO_RUN, or None when it was closed."""

    def __init__(self, runs: Sequence[RunView]) -> None:
        super().__init__()
        self.runs = runs

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = "lay a second run over this one"
            box.border_subtitle = "Enter chooses, Esc closes"
            yield OptionList(Option("no second run", id=NO_RUN), *(
                Option(_line(run), id=f"{run.host}/{run.run_id}") for run in self.runs))

    def on_mount(self) -> None:
        options = self.query_one(OptionList)
        options.focus()
        options.highlighted = 1 if self.runs else 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)


def _line(run: RunView) -> Text:
    loss = f"loss {run.loss:.4f}" if run.loss is not None else ""
    return styled("{}  {}  {}  {}  {}", run.host, run.run_id, state_word(run.state, 9),
                  f"{run.step} of {run.max_steps}", loss)
