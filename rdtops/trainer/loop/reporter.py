"""Reporter of a training: events of the run's Journal, lines of train.log, curves of the trackers."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

from rdtops.contract.journal import Journal
from rdtops.trainer.loop.progress import Telling
from rdtops.trainer.loop.trackers import Trackers

log = logging.getLogger("rdtops.trainer")


class Reporter:
    """The reporter of rank 0; on other ranks its methods do nothing. Leaving the `with` closes the Journal."""

    def __init__(self, journal: Journal, is_first: bool) -> None:
        self.is_first = is_first
        self.journal = Telling(journal)
        self.trackers = Trackers(self.warning)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_first:
            self.journal.close()

    def started(self, **facts: Any) -> None:
        self._append("started", **facts)

    def step(self, told: dict[str, Any] | None) -> None:
        """Report the data of a `step` event, when one is due."""
        if told:
            self._append("step", **told)
            self._log_curves(told["step"], {name: value for name, value in told.items()
                                            if name != "step" and value is not None})

    def validation_loss(self, step: int, loss: float) -> None:
        self._append("heldout", step=step, loss=loss)
        self._log_curves(step, {"heldout_loss": loss})
        self.line("step %d  validation loss %.6f", step, loss)

    def action_error(self, step: int, error: float) -> None:
        self._append("sample", step=step, action_mse=error)
        self._log_curves(step, {"action_mse": error})
        self.line("step %d  predicted against recorded actions: mean squared error %.6f", step, error)

    def stopped(self, step: int, number: int) -> None:
        name = signal.Signals(number).name
        self._append("stopped", step=step, signal=name)
        self.line("stopped by %s after step %d", name, step)

    def finished(self, step: int, loss: float) -> None:
        self._append("finished", step=step, loss=loss)
        self.line("finished after step %d", step)

    def warning(self, message: str, **facts: Any) -> None:
        self._append("warning", message=message, **facts)
        if self.is_first:
            log.warning("%s", message)

    def line(self, text: str, *values: object) -> None:
        """Write to train.log only."""
        if self.is_first:
            log.info(text, *values)

    def _append(self, kind: str, **data: Any) -> None:
        if self.is_first:
            self.journal.append(kind, **data)

    def _log_curves(self, step: int, values: dict[str, Any]) -> None:
        if self.is_first:
            self.trackers.log(step, values)


def configure_logging(level: int) -> None:
    """Log to standard output, which a launch redirects to train.log."""
    root = logging.getLogger("rdtops")
    root.setLevel(level)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.handlers = [handler]
    root.propagate = False
