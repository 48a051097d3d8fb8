"""Averaging of gradients over the processes, while the backward pass still computes others.

Not by DistributedDataParallel, which regroups its buckets after the first step: a resumed run would add up in another
order. Here a bucket has the same parameters in the same places in every step of every run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import torch

from rdtops.trainer.distributed import ranks as processes
from rdtops.trainer.distributed.ranks import Ranks, buckets


class Averaging:
    """Average the gradients of the parameters, the same ones in every process.

    A bucket is sent as soon as all its gradients are there, but never before another that comes earlier in the order:
    all processes must send in one order. It is the order in which the buckets of rank 0 were complete in the first
    backward pass, and decides about waiting, not about numbers.
    """

    def __init__(self, ranks: Ranks, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._ranks = ranks
        self._buckets = list(buckets(parameters, processes.BUCKET_BYTES)) if ranks.world > 1 else []
        self._order: list[int] = []
        self._missing: list[int] = []  # gradients by bucket; empty outside of the last micro-batch
        self._complete: list[int] = []
        self._unsent: deque[int] = deque()
        self._sent: list[tuple[torch.Tensor, Callable[[], None]]] = []
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._note, number))

    def begin(self) -> None:
        """Average in the backward pass that follows, the last of a step."""
        self._missing = [len(bucket) for bucket in self._buckets]
        self._complete, self._unsent = [], deque(self._order)

    def finish(self) -> None:
        """Wait until the gradients are averages. Those of a bucket are views of one tensor from now on; a parameter
        without a gradient is left out, in every process."""
        if self._buckets and not self._order:
            self._order = self._ranks.once(self._seen)
            self._unsent.extend(self._order)
        while self._unsent:
            self._send(self._unsent.popleft())
        for flat, wait in self._sent:
            wait()
            flat.div_(self._ranks.world)
        self._missing, self._sent = [], []

    def _seen(self) -> list[int]:
        return [*self._complete, *(n for n in range(len(self._buckets)) if n not in self._complete)]

    def _note(self, number: int, _parameter: torch.Tensor) -> None:
        """Note that a gradient of a bucket is there. torch calls it in the backward pass."""
        if not self._missing:
            return
        self._missing[number] -= 1
        if self._missing[number] == 0:
            self._complete.append(number)
            while self._unsent and self._missing[self._unsent[0]] == 0:
                self._send(self._unsent.popleft())

    def _send(self, number: int) -> None:
        present = [p for p in self._buckets[number] if p.grad is not None]
        if not present:
            return
        flat = torch.cat([p.grad.flatten() for p in present])  # type: ignore[union-attr]
        for parameter, part in zip(present, flat.split([p.numel() for p in present]), strict=True):
            parameter.grad = part.view_as(parameter)
        self._sent.append((flat, self._ranks.start_adding_up(flat)))
