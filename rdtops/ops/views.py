"""What a workflow yields: one dataclass for each thing there is to show. rdtops.ops.render says how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdtops.contract.journal import Event
from rdtops.contract.run import Checkpoint, RunState
from rdtops.errors import RdtopsError
from rdtops.ops import deploy as delivery
from rdtops.ops.answers import Gpu
from rdtops.ops.evaluation import EvalView
from rdtops.ops.records import HookRecord
from rdtops.ops.runs import RunView
from rdtops.remote.hosts import Host


@dataclass(frozen=True)
class HostRow:
    host: Host
    round_trip_s: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Deployed:
    host: str
    deliveries: tuple[delivery.Delivery, ...]
    dry_run: bool
    removed: tuple[str, ...] = ()  # old releases that nothing used


@dataclass(frozen=True)
class LaunchPlan:
    """What `inv train --dry-run` and `inv eval --dry-run` show: each file by its name, what would start it, and the
    names of the secrets that go into a file of their own."""

    host: str
    root: str
    files: dict[str, str]
    start: str
    secrets: tuple[str, ...]
    secrets_file: str  # '' when there are none


@dataclass(frozen=True)
class RunStatus:
    run: RunView
    evaluations: tuple[EvalView, ...]


@dataclass(frozen=True)
class HostStatus:
    """The runs of a host, or why it cannot be asked."""

    host: str
    runs: tuple[RunStatus, ...] = ()
    problem: RdtopsError | None = None


@dataclass(frozen=True)
class Progressed:
    """An event of a followed run, and what the plugins said of it."""

    event: Event
    max_steps: int
    records: tuple[HookRecord, ...]


@dataclass(frozen=True)
class CheckpointRow:
    run_id: str
    host: str
    checkpoint: Checkpoint
    latest: bool
    best: bool
    records: tuple[HookRecord, ...]
    state: str  # of its files against its manifest: verified, unverified, damaged
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointList:
    """`others`: what is no whole checkpoint, and why."""

    run: RunView
    rows: tuple[CheckpointRow, ...]
    others: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        return not any(row.state == "damaged" for row in self.rows)


@dataclass(frozen=True)
class Gpus:
    host: str
    text: str
    rows: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class GpuSample:
    """The GPUs of a host at one moment of `inv gpu --watch`."""

    host: str
    time_s: float
    gpus: tuple[Gpu, ...]
    problem: str = ""  # why there are none, or none of this moment
    warning: str = ""  # what nvidia-smi says besides, told once

    @property
    def in_place_of(self) -> str:
        """On a terminal a new one takes the place of the one before."""
        return self.host


@dataclass(frozen=True)
class Reported:
    """A report that was written on this laptop."""

    run_id: str
    page: Path


@dataclass(frozen=True)
class Text:
    """Lines of the host, passed on as they are."""

    text: str


def exit_code(shown: Any) -> int:
    """0 good, 1 when what is shown says that a check or a run failed."""
    failed = (
        not getattr(shown, "passed", True)
        or not getattr(shown, "holds", True)
        or (isinstance(shown, HostRow) and bool(shown.problem))
        or (isinstance(shown, (RunView, EvalView)) and shown.state in (RunState.FAILED, RunState.LOST)))
    if isinstance(shown, HostStatus):
        return shown.problem.exit_code if shown.problem else max((exit_code(r.run) for r in shown.runs), default=0)
    return 3 if isinstance(shown, HostRow) and failed else int(failed)
