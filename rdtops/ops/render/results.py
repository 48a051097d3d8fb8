"""What was brought home."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import RenderableType

from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.words import grid_of, size
from rdtops.ops.results import Fetched


@shown.register
def _(thing: Fetched) -> RenderableType:
    moved = (f"nothing to transfer: all {thing.files} files are here and have the same MD5" if thing.nothing_new
             else f"{thing.sent_files} of {thing.files} files, {size(thing.sent_bytes)} in {thing.seconds:.1f} s")
    where = (f"{thing.folder / 'checkpoints' / thing.checkpoint.name}  {size(thing.checkpoint.size_bytes)}, every MD5 "
             "as in its manifest" if thing.checkpoint else "none yet")
    rows = {"run": f"{thing.run.run_id}, {thing.run.state.value}, step {thing.run.step} of {thing.run.max_steps}",
            "transfer": moved, "checkpoint": where, "loss curve": str(thing.curve),
            "log": str(thing.folder / "train.log"), "journal": str(thing.folder / "journal.jsonl")}
    if thing.evaluations:
        rows["evaluations"] = "\n".join(str(thing.folder / "eval" / name) for name in thing.evaluations)
    return grid_of(rows)


@rows.register
def _(thing: Fetched) -> list[dict[str, Any]]:
    return [{"host": thing.host, "run_id": thing.run.run_id, "state": thing.run.state.value,
             "folder": str(thing.folder), "loss_curve": str(thing.curve),
             "checkpoint": asdict(thing.checkpoint) if thing.checkpoint else None,
             "evaluations": list(thing.evaluations),
             "files": thing.files, "sent_files": thing.sent_files, "sent_bytes": thing.sent_bytes}]
