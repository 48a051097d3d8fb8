"""A fetched run: what its folder on this laptop says. A file that is missing or cannot be read says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdtops.contract.fields import loads, table, text, whole
from rdtops.contract.journal import parse
from rdtops.contract.run import RunState
from rdtops.errors import UsageError
from rdtops.ops.story import Story

CHECKS = "checks.json"  # what `inv check` said at the launch
RUN = "run.json"  # what became of the run, as `inv status --json` says it, when it was fetched
LOG_LINES = 60


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, with its videos as paths relative to the run's folder."""

    name: str
    report: Mapping[str, Any]
    videos: tuple[str, ...]


@dataclass(frozen=True)
class RunFolder:
    root: Path
    config: Mapping[str, Any]  # config.json as it is: of an older version too
    story: Story
    status: Mapping[str, Any]
    checks: Mapping[str, Any] | None  # None: kept by no launch
    statistics: Mapping[str, Any]
    evaluations: tuple[Evaluated, ...]
    exit_code: int | None
    log_tail: str

    @classmethod
    def read(cls, root: Path) -> RunFolder:
        """Raises UsageError for a folder that holds no run."""
        config = _json(root / "config.json")
        if not isinstance(config, dict):
            raise UsageError(f"{root} holds no run: there is no readable config.json",
                             remedy="inv fetch-results   # makes results/<host>/<run>")
        journal = root / "journal.jsonl"
        events = parse(journal.read_bytes() + b"\n")[0] if journal.exists() else []
        exit_text = _text(root / "exit").strip()
        return cls(root, config, Story.of(events), table(_json(root / RUN)), _json(root / CHECKS),
                   table(_json(root / "statistics.json")), tuple(_evaluations(root)),
                   int(exit_text) if exit_text.lstrip("-").isdigit() else None,
                   "\n".join(_text(root / "train.log").splitlines()[-LOG_LINES:]))

    @property
    def run_id(self) -> str:
        return text(self.config.get("run_id")) or self.root.name

    @property
    def host(self) -> str:
        return text(self.config.get("host")) or self.root.parent.name

    @property
    def train(self) -> Mapping[str, Any]:
        train = self.config.get("train")
        return train if isinstance(train, dict) else {}

    @property
    def state(self) -> RunState:
        """As the host said when it was fetched, else by the exit code."""
        told = self.status.get("state")
        if told in [state.value for state in RunState]:
            return RunState(told)
        return {None: RunState.RUNNING, 0: RunState.FINISHED}.get(self.exit_code, RunState.FAILED)

    @property
    def max_steps(self) -> int:
        return whole(self.train.get("max_steps")) or 0

    @property
    def last_step(self) -> int:
        return self.story.loss[-1][0] if self.story.loss else 0

    @property
    def trained_s(self) -> float:
        """Seconds from the first to the last sign of the training."""
        times = [e.time_s for e in [*self.story.others, *self.story.steps] if e.time_s]
        return max(times) - min(times) if times else 0.0


def _evaluations(root: Path) -> list[Evaluated]:
    found = []
    for path in sorted((root / "eval").glob("*/report.json")):
        report = _json(path)
        if isinstance(report, dict) and "total" in report:
            videos = tuple(str(v.relative_to(root)) for v in sorted(path.parent.glob("**/[!.]*.mp4"))
                           if not v.is_symlink())
            found.append(Evaluated(path.parent.name, report, videos))
    return found


def _json(path: Path) -> Any:
    try:
        return loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
