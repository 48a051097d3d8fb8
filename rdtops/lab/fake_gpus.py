"""Fake GPUs: the data that the fake nvidia-smi of a lab host shows, in <host>/gpus.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rdtops.lab.lab_files import place


@dataclass(frozen=True)
class FakeGpuProcess:
    gpu: int
    pid: int
    name: str
    memory_mib: int


@dataclass(frozen=True)
class Failure:
    """A failure: nvidia-smi prints the message and exits with the code, as with a broken driver (9) or a lost GPU
    (15)."""

    exit_code: int
    message: str


@dataclass(frozen=True)
class Gpus:
    count: int = 8
    driver: str = "550.54.15"
    name: str = "NVIDIA A800-SXM4-80GB"
    memory_total_mib: int = 81920
    memory_used_mib: tuple[int, ...] = ()  # by GPU; those not named use 4 MiB, as an idle GPU does
    utilization_percent: tuple[int, ...] = ()  # by GPU; those not named idle
    ecc_errors: tuple[int, ...] = ()  # uncorrected, volatile; by GPU
    processes: tuple[FakeGpuProcess, ...] = ()
    hang_s: float = 0.0  # sleeps so long before it answers
    fail: Failure | None = None

    def write(self, path: Path) -> None:
        place(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Gpus:
        """Read a file written by `write`, or by hand with only the values that differ from the default."""
        values = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(values[name]) for name in _LISTS & values.keys()}
        processes = tuple(FakeGpuProcess(**process) for process in values.get("processes", ()))
        fail = Failure(**values["fail"]) if values.get("fail") else None
        return cls(**{**values, **lists, "processes": processes, "fail": fail})


_LISTS = {"memory_used_mib", "utilization_percent", "ecc_errors"}
