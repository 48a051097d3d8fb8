"""Result output: fetched runs and reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from rdtops.runs.results import Fetched
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import grid_of, size


@dataclass(frozen=True)
class FetchOutput(WorkflowOutput):
    fetched: Fetched

    def __rich__(self) -> RenderableType:
        it = self.fetched
        moved = (f"nothing to transfer: all {it.files} files are here and have the same MD5" if it.nothing_new
                 else f"{it.sent_files} of {it.files} files, {size(it.sent_bytes)} in {it.seconds:.1f} s")
        where = "\n".join(f"{it.folder / 'checkpoints' / c.name}  {size(c.size_bytes)}, every MD5 as in its manifest"
                          for c in it.checkpoints) or "none"
        words = {"run": f"{it.run.run_id}, {it.run.state.value}, step {it.run.step} of {it.run.max_steps}",
                 "transfer": moved, "checkpoint": where, "report": str(it.report),
                 "loss curve": str(it.curve), "log": str(it.folder / "train.log"),
                 "journal": str(it.folder / "journal.jsonl")}
        if it.evaluations:
            words["evaluations"] = "\n".join(str(it.folder / "eval" / name) for name in it.evaluations)
        return grid_of(words)

    def to_json(self) -> list[dict[str, Any]]:
        it = self.fetched
        return [{"host": it.host, "run_id": it.run.run_id, "state": it.run.state.value,
                 "folder": str(it.folder), "loss_curve": str(it.curve),
                 "report": str(it.report), "checkpoint": asdict(it.checkpoint) if it.checkpoint else None,
                 "checkpoints": [asdict(checkpoint) for checkpoint in it.checkpoints],
                 "evaluations": list(it.evaluations),
                 "files": it.files, "sent_files": it.sent_files, "sent_bytes": it.sent_bytes}]


@dataclass(frozen=True)
class ReportOutput(WorkflowOutput):
    """A report on this laptop, or a page that compares the run with others."""

    run_id: str
    page: Path
    compared_with: tuple[str, ...] = ()

    def __rich__(self) -> RenderableType:
        return styled("[green]written[/] {}  [dim]{}, opens without network[/]", self.page,
                      size(self.page.stat().st_size))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"run_id": self.run_id, "page": str(self.page), "compared_with": list(self.compared_with)}]
