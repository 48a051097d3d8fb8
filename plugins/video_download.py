"""Download every finished evaluation: its report, its videos, and a page that plays them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rdtops.api import (
    Connection,
    Evaluation,
    Host,
    Option,
    RdtopsError,
    RunSpec,
    download,
    fields,
    hookimpl,
    pages,
    plan_download,
    trial_outcomes,
)

PAGE: Final = "index.html"
FILES = ("eval.json", "report.json", "trials.jsonl")
OPTIONS = {"into": Option(str, "the folder on this laptop, by default that of `inv fetch-results`", "results")}
TIME_LIMIT_S = {"after_eval": 3600}  # many videos over a slow connection


@hookimpl
def after_eval(host: Host, connection: Connection, run: RunSpec, evaluation: Evaluation,
               options: Mapping[str, Any]) -> dict[str, Any]:
    """Download into results/<host>/<run>/eval/<name>/, verified; existing files are not sent again."""
    folder = Path(options["into"]).expanduser() / Path(host.name) / run.run_id / "eval" / evaluation.name
    report = _fetched(connection, evaluation, folder, list(FILES))
    videos = [trial.video for trial in trial_outcomes(report) if trial.video]
    if videos:
        download(connection, plan_download(connection, evaluation.folder, folder, files=videos))
    pages.write(folder / PAGE, pages.evaluation_page(report))
    return {"page": str(folder / PAGE), "videos": len(videos)}


def _fetched(connection: Connection, evaluation: Evaluation, folder: Path, files: list[str]) -> Mapping[str, Any]:
    """Download the files, and return the report."""
    download(connection, plan_download(connection, evaluation.folder, folder, files=files))
    try:
        return fields.table(fields.loads((folder / "report.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise RdtopsError(f"the report of {evaluation.name} cannot be read: {error}",
                          remedy=f"inv logs --eval --run {evaluation.name}") from error
