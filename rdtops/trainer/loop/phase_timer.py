"""Phase timer: the time of each phase of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NAMES = ("data", "encode", "forward", "backward", "optimiser", "save", "evaluation")
WAITED = ("data", "evaluation")  # time of the process, independent of the device


class Phases:
    """A timer of phases that do not overlap. A GPU works asynchronously, so its own clock is read by events, and later:
    waiting for it at the end of every phase would slow down what is measured. Of a save that is the time until the
    stream has made its copies, for which the next step waits, although the process does not."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._on_gpu and name not in WAITED:
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            yield
            ended.record()
            self._events.append((name, began, ended))
        else:
            began_s = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - began_s

    def take(self) -> dict[str, float]:
        """Return the seconds of every phase since the last call. Work that the GPU has not finished counts next
        time."""
        unfinished = []
        for name, began, ended in self._events:
            if ended.query():
                self._seconds[name] += began.elapsed_time(ended) / 1000
            else:
                unfinished.append((name, began, ended))
        taken, self._seconds, self._events = self._seconds, dict.fromkeys(NAMES, 0.0), unfinished
        return taken
