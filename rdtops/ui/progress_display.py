"""Progress display: bytes that move and steps of a build, on a terminal a living line each, elsewhere a line now and
then."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich import progress
from rich.console import RenderableType
from rich.text import Text

from rdtops.delivery.build_steps import SHORT, BuildStep
from rdtops.ssh.display import printable
from rdtops.transfer.transfer import TransferProgress
from rdtops.views.terminal import Terminal

MOVED_EVERY_S = 5.0
STEP_EVERY_S = 15.0


class ProgressDisplay:
    """Living lines on a terminal, by host and what is done there."""

    def __init__(self, terminal: Terminal, say: Callable[[str], None]) -> None:
        self._terminal = terminal
        self._say = say
        self._bars: progress.Progress | None = None
        self._ids: dict[tuple[str, str], progress.TaskID] = {}
        self._said_s: dict[tuple[str, str], float] = {}
        self._steps: dict[tuple[str, str], BuildStep] = {}  # the last ones that were said

    def show(self, host: str, what: str, done: TransferProgress | BuildStep) -> None:
        if isinstance(done, BuildStep):
            self._step((host, what), done)
        elif done.bytes_total:
            self._moved((host, what), done)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._ids = None, {}

    def _step(self, key: tuple[str, str], step: BuildStep) -> None:
        """Say a step that is new, and every STEP_EVERY_S what its program does."""
        if self._terminal.is_terminal:
            bars, task = self._task(key, None)
            bars.update(task, description=printable(f"{key[0]}: {step.words}"))
        elif self._is_worth_a_line(step, self._steps.get(key)):
            self._steps[key] = step
            self._say(f"{key[0]}: {key[1]}: {step}")

    @staticmethod
    def _is_worth_a_line(step: BuildStep, said: BuildStep | None) -> bool:
        if said and step.seconds - said.seconds < STEP_EVERY_S:
            return step.name != said.name
        return bool(said) or step.name != SHORT or step.seconds >= STEP_EVERY_S

    def _moved(self, key: tuple[str, str], done: TransferProgress) -> None:
        if self._terminal.is_terminal:
            bars, task = self._task(key, done.bytes_total)
            bars.update(task, completed=done.bytes_done, total=done.bytes_total)
        elif time.monotonic() - self._said_s.setdefault(key, time.monotonic()) > MOVED_EVERY_S:
            self._said_s[key] = time.monotonic()
            share = 100 * done.bytes_done / done.bytes_total
            self._say(f"{key[0]}: {key[1]}: {share:.0f} % of {done.bytes_total / 1e6:.1f} MB  {done.path}")

    def _task(self, key: tuple[str, str], bytes_total: int | None) -> tuple[progress.Progress, progress.TaskID]:
        if self._bars is None:
            self._bars = progress.Progress(
                _Elapsed(), progress.TextColumn("{task.description}", markup=False),
                *map(_OfBytes, (progress.BarColumn(30), progress.DownloadColumn(), progress.TransferSpeedColumn(),
                                progress.TimeRemainingColumn())), console=self._terminal, transient=True)
            self._bars.start()
        if key not in self._ids:
            self._ids[key] = self._bars.add_task(printable(f"{key[0]}: {key[1]}"), total=bytes_total)
        return self._bars, self._ids[key]


class _Elapsed(progress.ProgressColumn):
    """The seconds of a build, which has no length."""

    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.elapsed or 0:.0f} s" if task.total is None else "")


class _OfBytes(progress.ProgressColumn):
    """A column that only a transfer has."""

    def __init__(self, column: progress.ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: progress.Task) -> RenderableType:
        return Text("") if task.total is None else self._column(task)
