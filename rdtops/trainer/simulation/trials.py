"""Trials of an evaluation: one line each in trials.jsonl as they end, and the report of their results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rdtops.contract.config import wrong_kinds
from rdtops.hostlib.fields import loads
from rdtops.hostlib.files import append_line, lines_of
from rdtops.trainer.simulation.rollout import wilson
from rdtops.trainer.simulation.simulator import Task

SUCCESS, FAILURE, ERROR = "success", "failure", "error"
Key = tuple[str, int]


@dataclass(frozen=True)
class Trial:
    """The result of trial number `trial` of a task: it starts from that initial state, in the world of that seed."""

    task: str
    trial: int
    outcome: str  # SUCCESS; FAILURE of the policy; ERROR of the simulator, which says nothing about the policy
    steps: int = 0
    seconds: float = 0.0
    noise_seed: int = 0  # the policy's noise is that of (noise_seed, trial, decision)
    attempt: int = 1
    error: str = ""
    video: str = ""  # relative to the evaluation's folder
    video_error: str = ""

    @property
    def key(self) -> Key:
        return self.task, self.trial


class TrialLog:
    """trials.jsonl: appended and flushed, so that a kill loses only the running trials."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, trial: Trial) -> None:
        append_line(self.path, json.dumps(asdict(trial), ensure_ascii=False), flush=True)

    def read(self) -> dict[Key, Trial]:
        """Return the last result of each trial. An incomplete line, left by a killed machine, is ignored."""
        found: dict[Key, Trial] = {}
        with contextlib.suppress(OSError):  # the file does not exist yet
            for line in lines_of(self.path):
                try:
                    trial = Trial(**loads(line))
                except (ValueError, TypeError):
                    continue
                if not wrong_kinds(trial):
                    found[trial.key] = trial
        return found

    def ended(self) -> dict[Key, Trial]:
        """Return the trials that need not be repeated; those with an error are tried again."""
        return {key: trial for key, trial in self.read().items() if trial.outcome != ERROR}


def tally(trials: Sequence[Trial]) -> dict[str, Any]:
    """Count the outcomes. Errors are shown, but not counted in a rate; the interval is Wilson's, of 95 %."""
    counted = [t for t in trials if t.outcome != ERROR]
    won = [t for t in counted if t.outcome == SUCCESS]
    return {"successes": len(won), "trials": len(counted), "errors": len(trials) - len(counted),
            "success_rate": len(won) / len(counted) if counted else None,
            "wilson_95": wilson(len(won), len(counted)) if counted else None,
            "mean_steps_to_success": sum(t.steps for t in won) / len(won) if won else None}


def report(about: Mapping[str, Any], tasks: Sequence[Task], trials: Iterable[Trial]) -> dict[str, Any]:
    """Return `about` and the numbers, for JSON."""
    by_key = {t.key: t for t in trials}
    listed = {task.name: [t for t in by_key.values() if t.task == task.name] for task in tasks}
    ordered = [sorted(found, key=lambda t: t.trial) for found in listed.values()]
    return {**about, "total": tally([t for found in ordered for t in found]),
            "tasks": [{"number": task.number, "name": task.name, "language": task.language, **tally(found)}
                      for task, found in zip(tasks, ordered, strict=True)],
            "trials": [asdict(t) for found in ordered for t in found]}


def table(found: Mapping[str, Any]) -> list[str]:
    """Return the numbers of a report as lines."""
    rows = [*found["tasks"], {"language": "all", **found["total"]}]
    lines = [f"{'success':>9}  {'rate':>6}  {'95 % interval':>15}  {'steps':>5}  task"]
    for row in rows:
        rate, interval, steps = row["success_rate"], row["wilson_95"], row["mean_steps_to_success"]
        errors = f"  ({row['errors']} errors, not counted)" if row["errors"] else ""
        lines.append(f"{row['successes']:>4} / {row['trials']:<2}  "
                     f"{'' if rate is None else f'{100 * rate:.1f} %':>6}  "
                     f"{'' if interval is None else f'{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %':>15}  "
                     f"{'' if steps is None else f'{steps:.0f}':>5}  {row['language']}{errors}")
    return lines
