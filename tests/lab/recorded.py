"""A workspace that version 97e30e5 left behind: one training of the preset `tiny`, deployed, launched in the lab,
followed to its end and fetched, with what the laptop remembered of it.

Of its checkpoints the last one is kept, without its weights, and of its release the files of rdtops/supervisor in
snapshot.json. Paths were put below /home/robot.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

RECORDED = Path(__file__).parents[1] / "data" / "run_97e30e5"
RUN, RELEASE = "20261128-140246-tiny-4b4b", "97e30e5f-c977fcc5"
SAVED = "step_000012"
_WORKSPACE = "/home/robot/rdtops"


def restored(workspace: Path) -> Path:
    """Lay it out as `workspace`, with weights of the right size and nothing in them. Return the run's folder."""
    for source in (p for p in (RECORDED / "workspace").rglob("*") if p.is_file()):
        target = workspace / source.relative_to(RECORDED / "workspace")
        target.parent.mkdir(parents=True, exist_ok=True)
        if "checkpoints" in source.parts:  # every byte counts there
            shutil.copy(source, target)
        else:
            target.write_text(source.read_text().replace(_WORKSPACE, str(workspace)))
    checkpoint = workspace / "runs" / RUN / "checkpoints" / SAVED
    for row in json.loads((checkpoint / "manifest.json").read_text())["files"]:
        if not (checkpoint / row["path"]).exists():
            with (checkpoint / row["path"]).open("wb") as file:
                file.truncate(row["size_bytes"])
    return workspace / "runs" / RUN
