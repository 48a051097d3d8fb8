"""Ranks: the processes of one training, and their collectives.

rdtops.trainer.process_group (or torchrun) sets RANK, LOCAL_RANK and WORLD_SIZE.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from rdtops.contract import memory_plan
from rdtops.contract.config import TrainConfig
from rdtops.errors import ConfigError, RdtopsError, RunError
from rdtops.trainer import libraries

T = TypeVar("T")
T_Tensor = TypeVar("T_Tensor", bound=torch.Tensor)
TIMEOUT = timedelta(minutes=10)  # of tensors on a GPU; a loader may be slow, a peer that is longer away is lost
PATIENCE = timedelta(minutes=30)  # one process reads T5 (45 GB), the dataset, or saves, while the others wait over gloo
BUCKET_BYTES = memory_plan.GROUP_BYTES


class PeerFailed(RunError):
    """Another process of the training ended. Its own error, if it could report one, says more."""


class AlreadyReported(RdtopsError):
    """Another process reports the error; this one ends silently."""


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    device: torch.device
    patient: Any = None  # the process group of waits for one process; None: the default group

    @classmethod
    def join(cls, config: TrainConfig) -> Ranks:
        """Join the process group. Raise ConfigError unless there are as many processes as the run asks for."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if world != config.num_processes:
            raise ConfigError(f"{world} processes were started, the run asks for num_processes = "
                              f"{config.num_processes}", remedy="python -m rdtops.trainer.process_group "
                              f"--num_processes {config.num_processes} -m rdtops.trainer.train ...")
        device = _device(config)
        if world == 1:
            return cls(rank, world, device)
        if device.type == "cpu":
            distributed.init_process_group("gloo", timeout=PATIENCE)
            return cls(rank, world, device)
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT, **libraries.group_options(device))
        return cls(rank, world, device, distributed.new_group(timeout=PATIENCE, backend="gloo"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def together(self, work: Callable[[], T]) -> T:
        """Run `work` in every process. If some raise an RdtopsError, the lowest of their ranks raises it and all others
        raise AlreadyReported, so that one failure is reported once."""
        result, error = None, None
        try:
            result = work()
        except RdtopsError as caught:
            error = caught
        errors: list[RdtopsError | None] = [error]
        if self.world > 1:
            errors = [None] * self.world
            self._communicate(lambda: distributed.all_gather_object(errors, error, group=self.patient))
        teller = next((rank for rank, met in enumerate(errors) if met), None)
        if teller is not None:
            raise error if error and teller == self.rank else AlreadyReported(str(errors[teller]))
        return result  # type: ignore[return-value]

    def once(self, work: Callable[[], T]) -> T:
        """Run `work` in rank 0 and return its result in every process. Errors as in `together`."""
        result = [self.together(lambda: work() if self.is_first else None)]
        if self.world > 1:
            self._communicate(lambda: distributed.broadcast_object_list(
                result, device=torch.device("cpu"), group=self.patient))
        return result[0]  # type: ignore[return-value]

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Gather a vector of every rank, one row each, on the device: nothing waits for it."""
        if self.world == 1:
            return values[None]
        rows = [torch.empty_like(values) for _ in range(self.world)]
        self._communicate(lambda: distributed.all_gather(rows, values))
        return torch.stack(rows)

    def start_adding_up(self, values: torch.Tensor) -> Callable[[], None]:
        """Start to add up `values` over the ranks, in place. Return a function that waits for the sums."""
        work = self._communicate(lambda: distributed.all_reduce(values, async_op=True))
        return lambda: self._communicate(work.wait)

    def broadcast(self, values: torch.Tensor, source: int) -> None:
        """Copy `values` of the rank `source` into those of every rank."""
        self._communicate(lambda: distributed.broadcast(values, source))

    def send_to_first(self, values: torch.Tensor, source: int) -> None:
        """Copy `values` of the rank `source` into rank 0's. Only these two ranks call it."""
        self._communicate(lambda: distributed.recv(values, source) if self.is_first else distributed.send(values, 0))

    def leave(self) -> None:
        if self.world > 1:
            distributed.destroy_process_group()

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Turn communication errors of torch into PeerFailed. Other errors pass through."""
        try:
            yield
        except RuntimeError as error:
            if not _is_of_communication(error):
                raise
            raise self._peer_failed(error) from error

    def _communicate(self, exchange: Callable[[], Any]) -> Any:
        try:
            return exchange()
        except RuntimeError as error:
            if _is_of_loader(error):  # raised by a signal handler, whatever this process does
                raise
            raise self._peer_failed(error) from error

    def _peer_failed(self, error: RuntimeError) -> PeerFailed:
        return PeerFailed(f"rank {self.rank} lost contact with the other processes: {_short(error)}",
                        remedy="inv logs   # see the error of the process that ended first")


def _is_of_communication(error: RuntimeError) -> bool:
    """Tell whether it is a communication error. NCCL has its own types; gloo's are known by their source file."""
    return isinstance(error, libraries.CommunicationError) or "gloo" in str(error)


def _is_of_loader(error: RuntimeError) -> bool:
    """Tell whether torch reports a loader worker that was killed. It has no type of its own for that."""
    return str(error).startswith("DataLoader worker")


def _short(error: Exception) -> str:
    """Return the first line: gloo and NCCL add several lines of advice."""
    return str(error).partition("\n")[0].partition(". ")[0]


def _device(config: TrainConfig) -> torch.device:
    if config.device == "cpu":
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise RunError(f"process {local} of this host has no GPU: torch {torch.__version__} sees "
                       f"{torch.cuda.device_count()}", remedy="inv gpu; inv check")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def buckets(tensors: Iterable[T_Tensor], limit_bytes: int) -> Iterable[list[T_Tensor]]:
    """Group neighbours into buckets of `limit_bytes` or more."""
    bucket: list[T_Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= limit_bytes:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
