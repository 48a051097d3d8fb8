"""Screen: results on stdout, progress and messages on stderr."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import termios
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from invoke import Exit

from rdtops.errors import RdtopsError
from rdtops.ssh.display import json_text, printable

if TYPE_CHECKING:
    from rdtops.ui.progress_display import ProgressDisplay
    from rdtops.views.output import LiveOutput, WorkflowOutput
    from rdtops.workflows.session import Progress


class Screen:
    """The terminal and the session, shared by a whole chain of tasks."""

    def __init__(self) -> None:
        from rdtops.views.terminal import Terminal
        from rdtops.workflows.session import Session

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # the terminal's encoding may lack a character
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140  # a file has no width
        self.out = Terminal(width=width, soft_wrap=False)
        self.err = Terminal(stderr=True, soft_wrap=True)
        self._results: TextIO | None = None  # where JSON goes
        self.session = Session(self._say, self._progressed, ask_person if sys.stdin.isatty() else None)
        self._rows: list[dict[str, Any]] = []
        self._live: Any = None
        self._placed: dict[str, LiveOutput] = {}
        self._placing = threading.Lock()
        self._progress: ProgressDisplay | None = None

    def show_each(self, outputs: Iterable[WorkflowOutput]) -> int:
        """Show each as it comes; return the worst exit code."""
        code = 0
        for output in outputs:
            self.show(output)
            code = max(code, output.exit_code)
        self.close_progress()
        return code

    def show(self, output: WorkflowOutput) -> None:
        from rdtops.views.output import LiveOutput

        self.close_progress()
        if self.as_json:
            self._rows += output.to_json()
        elif isinstance(output, LiveOutput):
            self._show_in_place(output)
        else:
            self.out.print(output, crop=False)  # a log line may be wider than the terminal

    def _show_in_place(self, output: LiveOutput) -> None:
        """Replace the earlier output in its place on a terminal; in a pipe print lines."""
        from rich.console import Group
        from rich.live import Live

        if not self.out.is_terminal:
            self.out.print("\n".join(output.lines()), soft_wrap=True)
            return
        with self._placing:  # several hosts show side by side
            self._placed[output.place] = output
            if self._live is None:
                self._live = Live(console=self.out, auto_refresh=False, vertical_overflow="crop")
                self._live.start()
            self._live.update(Group(*(self._placed[name] for name in sorted(self._placed))), refresh=True)

    def show_rest(self) -> None:
        """Print the JSON rows that came before an error."""
        if self._rows:
            self.finish(0)

    def finish(self, code: int) -> None:
        if self._results is not None:
            is_utf_8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"  # JSON is; ASCII is both
            print(json_text(self._rows, only_ascii=not is_utf_8), file=self._results, flush=True)
            self._rows = []
        if code:
            raise Exit(code=code)

    @property
    def as_json(self) -> bool:
        return self._results is not None

    def close_results(self) -> None:
        """Forget what could not be written, so that nothing is written to the closed pipe at exit."""
        for stream in (sys.stdout, *([self._results] if self._results else [])):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def show_json(self) -> None:
        """Print JSON rows from now on, and nothing else: what plugins and their programs write on stdout goes to
        stderr."""
        if self._results is None:
            self._results = _claimed_stdout()

    def complain(self, error: RdtopsError) -> None:
        from rdtops.views.terminal import styled

        self.err.print(styled("[bold red]error:[/] {}", error.message))
        if error.remedy:
            self.err.print(styled("[bold]-> {}[/]", error.remedy))

    def close_progress(self) -> None:
        if self._progress is not None:
            self._progress.close()

    def close(self) -> None:
        self.close_progress()
        self.close_live()
        self.session.close()

    def close_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, text: str) -> None:
        self.err.print(text, style="dim")

    def _progressed(self, host: str, what: str, done: Progress) -> None:
        from rdtops.ui.progress_display import ProgressDisplay

        with self._placing:  # several hosts work side by side
            self._progress = self._progress or ProgressDisplay(self.err, self._say)
            self._progress.show(host, what, done)


def _claimed_stdout() -> TextIO:
    """Return the stdout of this process; what else is written to it goes to stderr from now on."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # no file: nothing but this process writes to it
        return sys.stdout
    sys.stdout.flush()
    claimed = os.fdopen(os.dup(descriptor), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
    os.dup2(sys.stderr.fileno(), descriptor)
    return claimed


_terminal: list[Any] | None = None  # its state before the question that is open
_asking = threading.Lock()  # hosts are asked for side by side, and there is one terminal


def ask_person(question: str, echo: bool) -> str:
    """Return the answer of the user at the terminal; without `echo` the typed text is hidden."""
    import getpass

    with _asking, _unchanged_terminal():
        return (input if echo else getpass.getpass)(f"{printable(question)} ")


@contextlib.contextmanager
def _unchanged_terminal() -> Iterator[None]:
    """Keep the state of the terminal for leave_question."""
    global _terminal  # noqa: PLW0603  # of the one question that is open
    with contextlib.suppress(termios.error, OSError, ValueError):
        _terminal = termios.tcgetattr(sys.stdin.fileno())
    yield
    _terminal = None


def leave_question() -> bool:
    """Return whether a question waits for its answer in another thread; the terminal is then as it was before it."""
    if _terminal is None:
        return False
    with contextlib.suppress(termios.error, OSError, ValueError):
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, _terminal)
    return True


def say(text: str) -> None:
    """Print a message on stderr; stdout has only the results."""
    print(printable(text), file=sys.stderr, flush=True)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a bug, escaped, which Python's own hook does not do."""
    say("".join(traceback.format_exception(kind, error, trace)).removesuffix("\n"))
