"""Run output: state and log of runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from rdtops.answers import GpuUsage
from rdtops.contract.run import RunState
from rdtops.errors import RdtopsError
from rdtops.launcher import JobState, Phase
from rdtops.runs.evaluations import EvalView
from rdtops.runs.overview import RunView
from rdtops.views.evaluation_output import evaluation_line
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import duration, exit_words, last_lines, mfu_words, speed, stacked, state_word, verbatim


@dataclass(frozen=True)
class LogOutput(WorkflowOutput):
    """Lines from the host, printed unchanged."""

    text: str

    def __rich__(self) -> RenderableType:
        return verbatim(self.text.removesuffix("\n"))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"text": self.text}]


@dataclass(frozen=True)
class RunOutput(WorkflowOutput):
    run: RunView

    @property
    def exit_code(self) -> int:
        return int(self.run.state in (RunState.FAILED, RunState.LOST))

    def __rich__(self) -> RenderableType:
        head = styled("{} [bold]{}[/]  {}  {}", state_word(self.run.state, 9), self.run.run_id, self.run.host,
                      "  ".join(f for f in _numbers(self.run) if f))
        return stacked(head, *_details(self.run))

    def to_json(self) -> list[dict[str, Any]]:
        return [self.run.to_json()]


@dataclass(frozen=True)
class RunStatus:
    run: RunView
    evaluations: tuple[EvalView, ...]


@dataclass(frozen=True)
class StatusOutput(WorkflowOutput):
    """The runs of a host, or why its status is not known."""

    host: str
    runs: tuple[RunStatus, ...] = ()
    problem: RdtopsError | None = None

    @property
    def exit_code(self) -> int:
        if self.problem:
            return self.problem.exit_code
        return max((RunOutput(status.run).exit_code for status in self.runs), default=0)

    def __rich__(self) -> RenderableType:
        if self.problem:
            remedy = [styled("  [bold]-> {}[/]", self.problem.remedy)] if self.problem.remedy else []
            return stacked(styled("[bold]{}[/]  [bold red]no status:[/] {}", self.host, self.problem.message),
                           *remedy)
        if not self.runs:
            return stacked(styled("[bold]{}[/]  [dim]no run yet[/]", self.host),
                           styled("  [bold]-> inv deploy check train --host {}[/]", self.host))
        numbers = [_numbers(status.run) for status in self.runs]
        widths = [max(len(row[column]) for row in numbers) for column in range(len(numbers[0]))]
        lines = [styled("[bold]{}[/]", self.host)]
        for status, row in zip(self.runs, numbers, strict=True):
            columns = "  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True) if width)
            lines.append(styled("  {} [bold]{}[/]  {}", state_word(status.run.state, 9), status.run.run_id,
                                columns.rstrip()))
            lines += _details(status.run)
            lines += [styled("            evaluation {}", evaluation_line(e)) for e in status.evaluations]
        return stacked(*lines)

    def to_json(self) -> list[dict[str, Any]]:
        if self.problem:
            return [{"host": self.host, "problem": self.problem.message, "remedy": self.problem.remedy or None}]
        return [{**status.run.to_json(), "evaluations": [e.to_json() for e in status.evaluations]}
                for status in self.runs]


def _numbers(run: RunView) -> list[str]:
    """Return step, loss, speed and time to go; '' for what is not known."""
    return [f"step {run.step} of {run.max_steps}" if run.max_steps else f"step {run.step}",
            f"loss {run.loss:.4f}" if run.loss is not None else "",
            speed(run.samples_per_s) if run.samples_per_s else "",
            f"{duration(run.eta_s)} to go" if run.eta_s and run.state is RunState.RUNNING else ""]


def _details(run: RunView) -> list[Text]:
    """Return the lines below a run: checkpoint, GPUs, last event; of a failed run the end of its log."""
    saved = f"{run.last_checkpoint}, {_ago(run.last_checkpoint_s)}" if run.last_checkpoint else ""
    facts = [saved, gpus_words(run.gpus), mfu_words(run.mfu),
             f"last event {_ago(run.last_event_s)}" if run.last_event_s else ""]
    lines = [styled("            [dim]{}[/]", "   ".join(f for f in facts if f))] if any(facts) else []
    if run.silent_since_s and run.state is RunState.RUNNING:
        lines.append(styled("            [yellow]nothing was written since {}, and there is no step yet[/]",
                            _ago(run.silent_since_s)))
        lines.append(styled("            [bold]-> inv why --host {} --run {}[/]", run.host, run.run_id))
    lines += [styled("            [yellow]cannot be read:[/] {}", run.problem)] if run.problem else []
    lines += [styled("            {}", words) for words in job_lines(run.job)]
    if run.state in (RunState.FAILED, RunState.LOST):
        last_words = run.error or last_lines(run.log_tail, "            ")
        lines.append(styled("            [red]{}[/]  {}", exit_words(run.exit_code), last_words))
        lines.append(styled("            [bold]-> inv why --host {} --run {}[/]", run.host, run.run_id))
    return lines


def job_lines(job: JobState | None) -> list[Text]:
    """Return the scheduler's message about a run; none for a run without a scheduler, or one that it does not know."""
    if job is None or job.phase is Phase.ABSENT or not job.words:
        return []
    needs_somebody = job.remedy and (job.cause or job.phase is Phase.UNKNOWN)
    return [styled("{}", job.words), *([styled("[bold]-> {}[/]", job.remedy)] if needs_somebody else [])]


def gpus_words(gpus: Sequence[GpuUsage]) -> str:
    """Return text such as `GPU 0, 1: 97 %, 142 of 160 GiB`; '' without GPUs."""
    if not gpus:
        return ""
    loads = [gpu.utilization_percent for gpu in gpus if gpu.utilization_percent is not None]
    load = f"{sum(loads) / len(loads):.0f} %, " if loads else ""
    used, total = (sum(getattr(g, name) or 0 for g in gpus) / 1024 for name in ("memory_used_mib", "memory_total_mib"))
    return f"GPU {', '.join(str(gpu.index) for gpu in gpus)}: {load}{used:.0f} of {total:.0f} GiB"


def _ago(time_s: float) -> str:
    return f"{duration(max(0.0, time.time() - time_s))} ago"
