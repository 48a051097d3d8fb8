"""Step times: real steps of the trainer, by phase and by kind of kernel, beside what the card's ceilings allow."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from proofs.gpu_bench import stand_ins
from proofs.gpu_bench.card import Card, CardRow
from proofs.trainer_bench.step_cost import Peaks, StepCost, step_cost
from rdtops.contract.journal import Journal
from rdtops.contract.memory_plan import CONTEXT_BYTES, MemoryPlan, plan
from rdtops.trainer import libraries
from rdtops.trainer.data.samples import Batch
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.loop.stop import Stop
from rdtops.trainer.train import Training

WARM, TIMED = 3, 6  # steps before the clock starts, and under it
SLACK = 1.25  # a step may take so much longer than derived
KINDS = (  # of kernels, by words of their names; the first that fits
    ("NaN fills", ("FillFunctor",)), ("norms", ("scale_rows", "sum_partials")),
    ("attention", ("flash", "fmha", "attention", "sdpa")), ("products", ("gemm", "cutlass", "nvjet", "xmma", "cublas")),
    ("optimiser", ("multi_tensor", "FusedAdam", "lpnorm")), ("copies", ("copy", "Memcpy", "CatArray", "Memset")),
    ("reductions", ("reduce",)), ("elementwise", ("elementwise", "vectorized")))


class Enough(Exception):
    """The steps that were asked for are done: what a training does in the end, a checkpoint of 20 GB, is not wanted."""


class TimedTraining(Training):
    """A training of a few steps, of which it keeps times and a profile."""

    step_s = 0.0
    profiled: Any = None

    def _step(self, step: int, data: Iterator[Batch]) -> tuple[float, int]:
        if step == WARM + 1:
            self._synchronise()
            self.phases.take()
            self._began_s = time.perf_counter()
        if step == WARM + TIMED + 1:
            self._synchronise()
            self.step_s = (time.perf_counter() - self._began_s) / TIMED
            self.by_phase = {name: seconds / TIMED for name, seconds in self.phases.take().items() if seconds}
            with profile(activities=self._activities) as self.profiled:
                super()._step(step, data)
                self._synchronise()
            raise Enough
        return super()._step(step, data)

    @property
    def _activities(self) -> list[ProfilerActivity]:
        on_gpu = self.ranks.device.type == "cuda"
        return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]

    def _synchronise(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)


def measure(card: Card) -> None:
    assets = stand_ins.make(card)
    cases = [(4, False), (32, False), (32, True)] if card.is_gpu else [(2, False)]
    for batch, checkpointing in cases:
        if card.left_s < 45:
            card.tell(CardRow("speed", f"batch {batch}", "not measured", how="no time was left"))
            continue
        name = f"{card.model}, batch {batch}{', gradient checkpointing' * checkpointing}"
        try:
            _measure(card, assets, name, batch, checkpointing)
        except libraries.OutOfMemoryError as error:
            card.tell(CardRow("speed", name, "out of memory", how=str(error).partition("\n")[0][:200]))
        card.clear()


def _measure(card: Card, assets: dict[str, str], name: str, batch: int, checkpointing: bool) -> None:
    run = stand_ins.run_of(card, assets, f"speed-{batch}{'-checkpointing' * checkpointing}", "max_steps=1000",
                           f"batch_size_per_process={batch}", f"gradient_checkpointing={str(checkpointing).lower()}",
                           f"loader_workers={4 if card.is_gpu else 0}", "heldout_every_steps=0",
                           "log_every_steps=1000")
    training = TimedTraining(run, Journal(Path(run.paths.journal)), Ranks(0, 1, card.device), Stop())
    with contextlib.suppress(Enough):
        training.run()
    expected = _counted(card, batch, checkpointing) if card.is_gpu else None
    derived_s = expected.ms(_reached(card)) / 1e3 if expected else None
    card.tell(CardRow("speed", f"a step of {name}", round(training.step_s * 1e3, 1), "ms",
                      round(derived_s * 1e3, 1) if derived_s else None,
                      training.step_s <= SLACK * derived_s if derived_s else None,
                      f"derived from the ceilings and {SLACK:g} x allowed; {batch / training.step_s:.1f} samples/s; "
                      + ", ".join(f"{phase} {seconds * 1e3:.0f}" for phase, seconds in training.by_phase.items())))
    if expected:
        card.tell(CardRow("speed", f"useful work of {name}",
                          round(expected.flops / training.step_s / card.gemm_flops_s, 3),
                          "of what one product reaches", how=f"{expected.flops / 1e12:.1f} TFLOP a step"))
        _memory(card, name, plan(run.train))
        _kernels(card, name, training.profiled, expected)


def _counted(card: Card, batch: int, checkpointing: bool) -> StepCost | None:
    """Count the step on fake tensors. An older torch may lack what that needs: then nothing is expected."""
    try:
        return step_cost(card.model, batch, gradient_checkpointing=checkpointing)
    except Exception as error:
        card.tell(CardRow("speed", "what a step costs", "not counted", how=f"{type(error).__name__}: {error}"[:200]))
        return None


def _memory(card: Card, name: str, planned: MemoryPlan) -> None:
    """Tell what torch took of the card: the plan must be enough, or `inv check` lets a training begin that dies."""
    taken = torch.cuda.max_memory_reserved(card.device) / 1e9
    used = torch.cuda.max_memory_allocated(card.device) / 1e9
    expected = (planned.total - CONTEXT_BYTES) / 1e9
    card.tell(CardRow("speed", f"memory of {name}", round(taken, 1), "GB reserved", round(expected, 1),
                      0.7 * expected <= taken <= expected, f"{used:.1f} GB allocated; the plan of inv check"))


def _reached(card: Card) -> Peaks:
    """Return the card as step_cost knows one, with what it reached instead of shares of a data sheet."""
    return Peaks(card.name, card.gemm_flops_s, card.copy_bytes_s, 1.0, 1.0)


def _kernels(card: Card, name: str, profiled: Any, expected: StepCost) -> None:
    """Tell how many kernels a step launches, and what they take by kind."""
    taken_ms: Counter[str] = Counter()
    launched: Counter[str] = Counter()
    for event in profiled.events():
        if event.device_type == DeviceType.CUDA:
            kind = next((kind for kind, words in KINDS if any(word in event.name for word in words)), "others")
            taken_ms[kind] += event.device_time / 1e3 if hasattr(event, "device_time") else event.cuda_time / 1e3
            launched[kind] += 1
    words = ", ".join(f"{kind} {ms:.1f} ms ({launched[kind]:,})" for kind, ms in taken_ms.most_common())
    total = sum(launched.values())
    card.tell(CardRow("kernels", f"kernels of a step of {name}", total, "", expected.kernels,
                      total <= 1.1 * expected.kernels, "counted on fake tensors; within a tenth"))
    card.tell(CardRow("kernels", f"the card is busy in a step of {name}", round(sum(taken_ms.values()), 1), "ms",
                      how=words))
