"""Card: the device that a GPU bench runs on, its rows, and the clock of its kernels."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class CardRow:
    """One row. `expected` is what was derived or promised; `holds` is None where nothing was."""

    part: str
    name: str
    measured: float | str
    unit: str = ""
    expected: float | str | None = None
    holds: bool | None = None
    how: str = ""


@dataclass
class Card:
    """The device under test. `room`: a folder for models, runs and checkpoints; `model`: of full size, or tiny on a
    CPU, where only the program is tried."""

    device: torch.device
    model: str
    room: Path
    until_s: float  # of time.monotonic
    gemm_flops_s: float = 0.0  # what the card reaches, once it was measured
    copy_bytes_s: float = 0.0
    rows: list[CardRow] = field(default_factory=list)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.is_gpu else "CPU"

    @property
    def left_s(self) -> float:
        return self.until_s - time.monotonic()

    def tell(self, row: CardRow) -> None:
        """Print a row as soon as it is known: what a crash leaves is worth having."""
        self.rows.append(row)
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
        sys.stdout.flush()

    def wait(self) -> None:
        """Wait until the device has done all that was asked."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Work, rounds: int = 5, warm: int = 2) -> float:
        """Return the median seconds of `work`, the device's part included."""
        taken = []
        for number in range(warm + rounds):
            self.wait()
            began_s = time.perf_counter()
            work()
            self.wait()
            if number >= warm:
                taken.append(time.perf_counter() - began_s)
        return statistics.median(taken)

    def clear(self) -> None:
        """Give freed memory back, so that another process or a larger batch can have it."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
