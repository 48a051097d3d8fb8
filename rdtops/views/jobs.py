"""Jobs: what a cluster's scheduler says of a run, below it."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from rdtops.launcher import JobState, Phase
from rdtops.views.terminal import styled


def job_lines(job: JobState | None) -> list[Text]:
    """None where there is nothing to say: a run on a host of its own, one that the scheduler never saw."""
    if job is None or job.phase is Phase.ABSENT or not job.words:
        return []
    needs_somebody = job.remedy and (job.cause or job.phase is Phase.UNKNOWN)
    return [styled("{}", job.words), *([styled("[bold]-> {}[/]", job.remedy)] if needs_somebody else [])]


def job_begins(d: dict[str, Any]) -> str:
    """What the Journal says of it."""
    again = f", queued again {d['restarts']} x" if d.get("restarts") else ""
    return f"job {d.get('job')} of {d.get('launcher')} begins on {d.get('nodes')}{again}"


def start_words(launcher: str) -> str:
    """How a training was begun: `detached in tmux`, `handed to Slurm, job 12`."""
    return f"{'detached in' if launcher in ('tmux', 'setsid') else 'handed to'} {launcher}"
