"""How far a training is and how fast: the `step` events of the Journal, and the lines of train.log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Journal

log = logging.getLogger(__name__)


class Telling:
    """Appends to the Journal. On a full disk an event waits for the next one, and the training goes on."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._waiting: list[tuple[str, dict[str, Any]]] = []

    def append(self, kind: str, **data: Any) -> None:
        self._waiting.append((kind, data))
        try:
            while self._waiting:
                waiting_kind, waiting_data = self._waiting[0]
                self.journal.append(waiting_kind, **waiting_data)
                self._waiting.pop(0)
        except OSError as error:
            log.error("%s cannot be written: %s", self.journal.path, error)


class Progress:
    """Collects steps until one is due to be logged; what is logged are means over the steps since the last time."""

    def __init__(self, config: TrainConfig, journal: Telling) -> None:
        self.config, self.journal = config, journal
        self._start_window()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._data_s += time.perf_counter() - began

    def step(self, step: int, loss: float, learning_rate: float, grad_norm: float) -> None:
        self._losses.append(loss)
        if math.isfinite(grad_norm):  # fp16 meets infinite ones and skips their steps
            self._grad_norms.append(grad_norm)
        # the step after a checkpoint can be replayed: it is told alone
        at_checkpoint = step % self.config.checkpoint_every_steps in (0, 1)
        if at_checkpoint or step % self.config.log_every_steps == 0 or step in (1, self.config.max_steps):
            self._report(step, learning_rate)
            self._start_window()

    def _start_window(self) -> None:
        self._began = time.perf_counter()
        self._losses: list[float] = []
        self._grad_norms: list[float] = []
        self._data_s = 0.0

    def _report(self, step: int, learning_rate: float) -> None:
        count = len(self._losses)
        step_s = (time.perf_counter() - self._began) / count
        data = {
            "step": step,
            "loss": sum(self._losses) / count,
            "learning_rate": learning_rate,
            "grad_norm": sum(self._grad_norms) / max(len(self._grad_norms), 1),
            "samples_per_s": round(self.config.global_batch_size / step_s, 2),
            "step_s": round(step_s, 4),
            "data_s": round(self._data_s / count, 4),
            "eta_s": round((self.config.max_steps - step) * step_s, 1),
            "samples": step * self.config.global_batch_size,
        }
        self.journal.append("step", **data)
        log.info("%s", _line(data, self.config.max_steps))


def _line(data: dict[str, Any], max_steps: int) -> str:
    width = len(str(max_steps))
    minutes, seconds = divmod(round(data["eta_s"]), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"step {data['step']:{width}}/{max_steps}  loss {data['loss']:.6f}  lr {data['learning_rate']:.2e}  "
            f"grad {data['grad_norm']:.3f}  {data['samples_per_s']:.1f} samples/s  {data['step_s']:.2f} s/step, "
            f"{data['data_s']:.2f} of it waiting for data  left {hours}:{minutes:02}:{seconds:02}")
