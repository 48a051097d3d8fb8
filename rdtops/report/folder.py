"""Folder: a fetched run on this laptop. A missing or unreadable file counts as empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rdtops import pages
from rdtops.contract.journal import Journal
from rdtops.contract.outcomes import problem_of
from rdtops.contract.run import RunState
from rdtops.contract.tally import Tally
from rdtops.errors import UsageError
from rdtops.hostlib import fields, files, provenance
from rdtops.hostlib.names import RelativePath
from rdtops.hostlib.provenance import Provenance
from rdtops.report.gpu_use import GpuUse
from rdtops.runs.story import POINTS, Story
from rdtops.ssh.display import log_text

CHECKS: Final = "checks.json"  # the result of `inv check` at the launch
RUN: Final = "run.json"  # the state of the run when it was fetched, as in `inv status --json`
LOG_LINES, LOG_BYTES = 60, 1 << 18  # from the end of the log


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, with its videos as paths relative to the run's folder."""

    name: str
    report: Mapping[str, Any]  # empty where it was not written, or cannot be read
    videos: tuple[RelativePath, ...]
    problem: str = ""  # why it failed, by the Journal or its log; '' where neither says so

    @property
    def total(self) -> Tally:
        return Tally.of(fields.table(self.report.get("total")))

    @property
    def reason(self) -> str:
        """Return why it failed; '' where it did not."""
        return self.problem or problem_of(self.report)


@dataclass(frozen=True)
class RunFolder:
    root: Path
    config: Mapping[str, Any]  # config.json unchanged, of any version
    story: Story
    status: Mapping[str, Any]
    checks: Mapping[str, Any] | None  # None: not saved by a launch
    statistics: Mapping[str, Any]
    gpu_use: GpuUse
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
                   _table(root / "statistics.json") or {},
                   GpuUse.read(root / "gpus.jsonl"), _origin(root), tuple(_evaluations(root, story)),
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
    def instructions(self) -> list[str]:
        """Return what the demonstrations show, in their own words; none for a run before 2026-11-28."""
        return fields.words(self.story.started.data.get("instructions")) if self.story.started else []

    @property
    def best_evaluation(self) -> Evaluated | None:
        """Return the evaluation with the highest rate; of equal ones that with the most trials."""
        rated = [(e.total.rate, fields.whole(fields.table(e.report.get("total")).get("trials")) or 0, e)
                 for e in self.evaluations if e.total.rate is not None]
        return max(rated, key=lambda one: one[:2])[2] if rated else None

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


def _evaluations(root: Path, story: Story) -> list[Evaluated]:
    found = []
    for folder in sorted(path for path in (root / "eval").glob("*") if path.is_dir() and not path.is_symlink()):
        report = _table(folder / "report.json") or {}
        if "total" not in report:
            report = {}
        videos = tuple(RelativePath(str(v.relative_to(root))) for v in sorted(folder.glob("**/[!.]*.mp4"))
                       if not v.is_symlink())
        if report or videos or (folder / "eval.json").exists():
            found.append(Evaluated(folder.name, report, videos, _problem(folder, story, has_report=bool(report))))
    return found


def _problem(folder: Path, story: Story, *, has_report: bool) -> str:
    """Return why an evaluation failed: its error in the Journal, else, without a report, the end of its log."""
    events = [e for e in story.others if e.kind.startswith("eval_") and e.data.get("name") == folder.name]
    if events and events[-1].kind == "eval_failed":
        return pages.text(events[-1].data.get("error", "?"))
    if has_report:
        return ""
    lines = [line for line in files.tail_of(folder / "eval.log", LOG_BYTES).splitlines() if line.strip()]
    return f"no report.json; the last line of eval.log: {log_text(lines[-1]).strip()}" if lines else "no report.json"


def _table(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None for a missing or damaged file."""
    try:
        found = fields.loads(files.head_of(path, files.TABLE_BYTES))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
