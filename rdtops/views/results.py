"""What was brought home."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import RenderableType

from rdtops.runs.results import Fetched
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.views import Reported
from rdtops.views.words import grid_of, size


@shown.register
def _(thing: Fetched) -> RenderableType:
    moved = (f"nothing to transfer: all {thing.files} files are here and have the same MD5" if thing.nothing_new
             else f"{thing.sent_files} of {thing.files} files, {size(thing.sent_bytes)} in {thing.seconds:.1f} s")
    where = "\n".join(f"{thing.folder / 'checkpoints' / c.name}  {size(c.size_bytes)}, every MD5 as in its manifest"
                      for c in thing.checkpoints) or "none"
    rows = {"run": f"{thing.run.run_id}, {thing.run.state.value}, step {thing.run.step} of {thing.run.max_steps}",
            "transfer": moved, "checkpoint": where, "report": str(thing.report),
            "loss curve": str(thing.curve), "log": str(thing.folder / "train.log"),
            "journal": str(thing.folder / "journal.jsonl")}
    if thing.evaluations:
        rows["evaluations"] = "\n".join(str(thing.folder / "eval" / name) for name in thing.evaluations)
    return grid_of(rows)


@shown.register
def _(thing: Reported) -> RenderableType:
    return styled("[green]written[/] {}  [dim]{}, opens without network[/]", thing.page,
                  size(thing.page.stat().st_size))


@rows.register
def _(thing: Reported) -> list[dict[str, Any]]:
    return [{"run_id": thing.run_id, "page": str(thing.page)}]


@rows.register
def _(thing: Fetched) -> list[dict[str, Any]]:
    return [{"host": thing.host, "run_id": thing.run.run_id, "state": thing.run.state.value,
             "folder": str(thing.folder), "loss_curve": str(thing.curve),
             "report": str(thing.report), "checkpoint": asdict(thing.checkpoint) if thing.checkpoint else None,
             "checkpoints": [asdict(checkpoint) for checkpoint in thing.checkpoints],
             "evaluations": list(thing.evaluations),
             "files": thing.files, "sent_files": thing.sent_files, "sent_bytes": thing.sent_bytes}]
