"""Evidence: what the host can say of a run at one moment, as facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Event
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError

FILES = (("journal", "journal.jsonl"), ("log", "train.log"), ("kernel", "kernel log"))


@dataclass(frozen=True)
class Line:
    """One line of a file, or of what a program said."""

    file: str
    number: int  # 0 where lines have none
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.text}" if self.number else f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Evidence:
    """`journal` and `log` are those of the last attempt, oldest first, shortened at their beginning."""

    run_id: str
    host: str
    train: TrainConfig | None  # None when config.json cannot be read
    journal: tuple[Line, ...]
    log: tuple[Line, ...]
    kernel: tuple[Line, ...]  # of dmesg or journalctl -k: out of memory, Xid
    exit_code: int | None
    alive: bool
    launched: bool
    stop_requested: bool
    same_boot: bool  # False: the host was started anew since
    oom_kills: int | None  # by the kernel since the attempt began, on this host; None where it does not tell
    disk_free_bytes: int | None
    disk_free_inodes: int | None
    gpus: tuple[Mapping[str, Any], ...]  # index, used_mib, utilisation_percent, throttled, others (pids, not ours)
    gpu_problem: str  # what nvidia-smi said instead, '' where all is well or there is none
    ranks: tuple[Mapping[str, Any], ...]  # rank, pid, state (R, S, D, T), cpu_share
    now_s: float  # Unix time of the host
    ended_by: Mapping[str, Any] | None = None  # what the supervisor wrote of the attempt's end

    @cached_property
    def events(self) -> tuple[tuple[Line, Event], ...]:
        found = []
        for line in self.journal:
            try:
                found.append((line, Event.from_line(line.text)))
            except ValueError:
                continue
        return tuple(found)

    def of_kind(self, *kinds: str) -> list[tuple[Line, Event]]:
        return [(line, event) for line, event in self.events if event.kind in kinds]

    @classmethod
    def of(cls, host: str, facts: Mapping[str, Any]) -> Evidence:
        """From what rdtops/supervisor/evidence_on_host.py answers."""
        try:
            train = RunSpec.from_json(facts["config"]).train
        except ConfigError:
            train = None
        read: dict[str, Any] = {name: tuple(Line(file, *numbered) for numbered in facts[name]) for name, file in FILES}
        read.update(gpus=tuple(facts["gpus"]), ranks=tuple(facts["ranks"]))
        return cls(host=host, train=train, **read,
                   **{name: value for name, value in facts.items() if name not in (*read, "config")})
