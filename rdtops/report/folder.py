"""Folder: a fetched run on this laptop. A missing or unreadable file counts as empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rdtops import pages
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunState
from rdtops.errors import UsageError
from rdtops.hostlib import fields, files, provenance
from rdtops.hostlib.names import RelativePath
from rdtops.hostlib.provenance import Provenance
from rdtops.runs.story import POINTS, Story

CHECKS: Final = "checks.json"  # the result of `inv check` at the launch
RUN: Final = "run.json"  # the state of the run when it was fetched, as in `inv status --json`
LOG_LINES, LOG_BYTES = 60, 1 << 18  # from the end of the log


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, with its videos as paths relative to the run's folder."""

    name: str
    report: Mapping[str, Any]
    videos: tuple[RelativePath, ...]


@dataclass(frozen=True)
class RunFolder:
    root: Path
    config: Mapping[str, Any]  # config.json unchanged, of any version
    story: Story
    status: Mapping[str, Any]
    checks: Mapping[str, Any] | None  # None: not saved by a launch
    statistics: Mapping[str, Any]
    origin: Provenance  # what it was trained on; without parts for a run before 2026-11-28
    evaluations: tuple[Evaluated, ...]
    exit_code: int | None
    log_tail: str

    @classmethod
    def read(cls, root: Path) -> RunFolder:
        """Read a fetched run. Raises UsageError for a folder that holds no run."""
        config = _table(root / "config.json")
        if config is None:
            raise UsageError(f"{root} is not a fetched run: it has no readable config.json",
                             remedy="inv fetch-results   # creates results/<host>/<run>")
        story = Story.from_events(Journal(root / "journal.jsonl").events(steps=POINTS))
        return cls(root, config, story, _table(root / RUN) or {}, _table(root / CHECKS),
                   _table(root / "statistics.json") or {}, _origin(root), tuple(_evaluations(root)),
                   fields.decimal(files.text_of(root / "exit")),
                   "\n".join(files.tail_of(root / "train.log", LOG_BYTES).splitlines()[-LOG_LINES:]))

    @property
    def run_id(self) -> str:
        return fields.text(self.config.get("run_id")) or self.root.name

    @property
    def host(self) -> str:
        return fields.text(self.config.get("host")) or self.root.parent.name

    @property
    def train(self) -> Mapping[str, Any]:
        return fields.table(self.config.get("train"))

    @property
    def state(self) -> RunState:
        """Return the state when it was fetched, else the one of the exit code."""
        recorded = self.status.get("state")
        if recorded in [state.value for state in RunState]:
            return RunState(recorded)
        return {None: RunState.RUNNING, 0: RunState.FINISHED}.get(self.exit_code, RunState.FAILED)

    @property
    def identities(self) -> list[tuple[str, str]]:
        """Return the name and the digest of each encoder, the tokenizer and the pretrained weights."""
        return [(f"{part}: {pages.text(self.train.get(provenance.ROLES[part], '?'))}", self.origin.identity(part))
                for part in (*provenance.ENCODERS, provenance.PRETRAINED) if self.origin.parts.get(part)]

    @property
    def max_steps(self) -> int:
        return fields.whole(self.train.get("max_steps")) or 0

    @property
    def last_step(self) -> int:
        return self.story.loss[-1][0] if self.story.loss else 0

    @property
    def trained_s(self) -> float:
        """Seconds from the first to the last event of the training."""
        return max(0.0, self.story.last_s - self.story.first_s)


def _origin(root: Path) -> Provenance:
    try:
        return provenance.read(root) or Provenance({})
    except ValueError:
        return Provenance({})


def _evaluations(root: Path) -> list[Evaluated]:
    found = []
    for path in sorted((root / "eval").glob("*/report.json")):
        report = _table(path)
        if report is not None and "total" in report:
            videos = tuple(RelativePath(str(v.relative_to(root))) for v in sorted(path.parent.glob("**/[!.]*.mp4"))
                           if not v.is_symlink())
            found.append(Evaluated(path.parent.name, report, videos))
    return found


def _table(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None for a missing or damaged file."""
    try:
        found = fields.loads(files.head_of(path, files.TABLE_BYTES))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
