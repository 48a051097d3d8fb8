"""Progress of a training: the `step` events of the Journal, and the lines of train.log."""

from __future__ import annotations

import logging
import math
import resource
import threading
import time
from typing import Any

import torch

from rdtops.contract import model_flops
from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Event, Journal
from rdtops.trainer.loop.disk_space import Backlog, give_up_reserve
from rdtops.trainer.loop.phase_timer import NAMES, Phases

log = logging.getLogger(__name__)


class Telling:
    """A writer of Journal events, for any thread. On a full disk an event waits for the next one, and the training
    continues."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._backlog: Backlog[Event] = Backlog(journal.path, journal.write)
        self._alone = threading.Lock()

    def append(self, kind: str, **data: Any) -> None:
        with self._alone:
            self._backlog.add(Event(kind, time.time(), data))

    def close(self) -> None:
        """Write the waiting events before the process ends; on a full disk they use the reserve."""
        with self._alone:
            give_up_reserve(self.journal.path.parent)
            self._backlog.clear()


class Progress:
    """A collector of steps. When a step is due, it reports the means over the steps since the last report."""

    def __init__(self, config: TrainConfig, device: torch.device, phases: Phases, words: int = 0) -> None:
        """words: tokens of the longest instruction."""
        self.config, self.device, self.phases = config, device, phases
        self._step_flops = config.gradient_accumulation_steps * model_flops.training_flops(
            config.model, config.batch_size_per_process, words=words, draws=config.noise_draws_per_sample)
        self._peak_flops_s = model_flops.peak_flops_s(
            torch.cuda.get_device_name(device), config.mixed_precision) if device.type == "cuda" else None
        self._first_ended: tuple[int, float] | None = None  # the step and its end time; the first step takes longer
        self._start_window()

    def encoded(self, frames: int) -> None:
        """Count frames that the vision encoder encodes for training."""
        self._frames += frames

    def step(self, step: int, loss: float, learning_rate: float, grad_norm: float) -> dict[str, Any] | None:
        """Return the data of a `step` event when one is due."""
        self._losses.append(loss)
        if math.isfinite(grad_norm):  # fp16 skips steps with an infinite norm
            self._grad_norms.append(grad_norm)
        if not self._is_due(step):
            return None
        told = self._means(step, learning_rate)
        self._start_window()
        self._first_ended = self._first_ended or (step, self._began_s)
        log.info("%s", _line(told, self.config.max_steps))
        return told

    def _start_window(self) -> None:
        self._began_s = time.perf_counter()
        self._losses: list[float] = []
        self._grad_norms: list[float] = []
        self._frames = 0

    def _is_due(self, step: int) -> bool:
        late = 0 < self.config.log_every_s <= time.perf_counter() - self._began_s
        # the step after a checkpoint can be replayed: report it alone
        at_checkpoint = step % self.config.checkpoint_every_steps in (0, 1)
        return late or at_checkpoint or step % self.config.log_every_steps == 0 or step in (1, self.config.max_steps)

    def _means(self, step: int, learning_rate: float) -> dict[str, Any]:
        count = len(self._losses)
        step_s = (time.perf_counter() - self._began_s) / count
        phases = {name: seconds / count for name, seconds in self.phases.take().items()}
        learning_s = step_s - phases["save"] - phases["evaluation"]
        return {
            "step": step,
            "loss": sum(self._losses) / count,
            "learning_rate": learning_rate,
            "grad_norm": sum(self._grad_norms) / max(len(self._grad_norms), 1),
            "samples": step * self.config.global_batch_size,
            "samples_per_s": round(self.config.global_batch_size / learning_s, 2),
            "step_s": round(step_s, 4),
            **{f"{name}_s": round(seconds, 4) for name, seconds in phases.items()},
            **self._useful(count, learning_s),
            **_memory_mib(self.device),
            "eta_s": round((self.config.max_steps - step) * self._usual_step_s(step, step_s), 1),
        }

    def _useful(self, steps: int, step_s: float) -> dict[str, float | None]:
        """Return the useful TFLOP/s of this process, and their share of its GPU's peak."""
        encoding = model_flops.encoding_flops(self.config.model, self._frames) or 0
        flops_s = (self._step_flops + encoding / steps) / step_s
        peak = self._peak_flops_s
        return {"tflop_per_s": float(f"{flops_s / 1e12:.4g}"), "mfu": round(flops_s / peak, 4) if peak else None}

    def _usual_step_s(self, step: int, step_s: float) -> float:
        """Return the mean of all steps but the first: a step reported alone after a save has all of the save's time,
        and others none of it."""
        if self._first_ended is None:
            return step_s
        first, ended_s = self._first_ended
        return (time.perf_counter() - ended_s) / (step - first)


def _memory_mib(device: torch.device) -> dict[str, int | None]:
    """Return the peak memory of tensors on the GPU, and of what torch has reserved there; or that of the process in
    host memory."""
    if device.type == "cuda":
        return {"memory_mib": torch.cuda.max_memory_allocated(device) >> 20,
                "memory_reserved_mib": torch.cuda.max_memory_reserved(device) >> 20}
    return {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,  # Linux counts in KiB
            "memory_reserved_mib": None}


def _line(told: dict[str, Any], max_steps: int) -> str:
    width = len(str(max_steps))
    minutes, seconds = divmod(round(told["eta_s"]), 60)
    hours, minutes = divmod(minutes, 60)
    parts = " ".join(f"{name} {told[f'{name}_s']:.2f}" for name in NAMES)
    mfu = "" if told["mfu"] is None else f"MFU {100 * told['mfu']:.1f} %  "
    return (f"step {told['step']:{width}}/{max_steps}  loss {told['loss']:.6f}  lr {told['learning_rate']:.2e}  "
            f"grad {told['grad_norm']:.3f}  {told['samples_per_s']:.1f} samples/s  {told['step_s']:.2f} s/step "
            f"({parts})  {mfu}{told['memory_mib']} MiB  left {hours}:{minutes:02}:{seconds:02}")
