"""Ports of the lab's three servers."""

from __future__ import annotations

import itertools
import os
import random
import socket
from contextlib import suppress
from dataclasses import dataclass

_BELOW_EPHEMERAL = range(20_000, 32_000)  # the kernel gives ports from 32768 to outgoing connections
_WORKER, _WORKERS = "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"  # set by pytest-xdist for its workers: gw0, 4


@dataclass(frozen=True)
class Ports:
    jump: int = 22022
    lab: int = 22023
    lab2: int = 22024

    @classmethod
    def free(cls) -> Ports:
        """Return three unused ports, for a lab beside another one."""
        return cls(*free_ports(3))

    @property
    def words(self) -> str:
        return f"{self.jump}, {self.lab} and {self.lab2}"

    def of(self, name: str) -> int:
        return {"lab-jump": self.jump, "lab": self.lab, "lab2": self.lab2}[name]


def free_ports(count: int) -> list[int]:
    """Return different unused ports."""
    ours = _share()[len(_share()) // 4:]
    return list(itertools.islice(filter(_is_free, random.sample(ours, len(ours))), count))


def first_job_id() -> int:
    """Return the first job id of a Slurm cluster: its jobs use port 20000 + id % 12000 (plugins/slurm), in the first
    quarter of our share."""
    return _share().start - _BELOW_EPHEMERAL.start + 1


def _share() -> range:
    """Return the ports of this worker of pytest-xdist, which no other worker uses, even while a server is stopped."""
    worker, workers = os.environ.get(_WORKER, "gw0"), os.environ.get(_WORKERS, "1")
    size = len(_BELOW_EPHEMERAL) // int(workers)
    at = size * int(worker.removeprefix("gw"))
    return _BELOW_EPHEMERAL[at:at + size]


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return True
    return False
