"""Brings every finished evaluation home: its report, its videos, and a page that plays them."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from contextlib import suppress
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
    names,
    plan_download,
)

PAGE: Final = "index.html"
FILES = ("eval.json", "report.json", "trials.jsonl")
OPTIONS = {"into": Option(str, "the folder on this laptop, by default that of `inv fetch-results`", "results")}
TIME_LIMIT_S = {"after_eval": 3600}  # many videos over a slow line
_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1120px; padding: 0 1rem;
       background: #14161a; color: #e6e6e6 }
table { border-collapse: collapse } td, th { padding: .2rem 1rem .2rem 0; text-align: left; font-weight: normal }
th, .note, figcaption { color: #9aa0a8 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1rem }
figure { margin: 0; border-left: 4px solid #9aa0a8; padding-left: .6rem } video { width: 100%; display: block }
figure.success { border-color: #7ee787 } figure.failure { border-color: #ff9c8f }
"""


@hookimpl
def after_eval(host: Host, connection: Connection, run: RunSpec, evaluation: Evaluation,
               options: Mapping[str, Any]) -> dict[str, Any]:
    """Into results/<host>/<run>/eval/<name>/, verified; what is there already is not sent again."""
    folder = Path(options["into"]).expanduser() / Path(host.name) / run.run_id / "eval" / evaluation.name
    report = _fetched(connection, evaluation, folder, list(FILES))
    videos = list(_videos(report))
    if videos:
        download(connection, plan_download(connection, evaluation.folder, folder, files=videos))
    (folder / PAGE).write_text(page(report), encoding="utf-8")
    return {"page": str(folder / PAGE), "videos": len(videos)}


def _videos(report: Mapping[str, Any]) -> Iterator[str]:
    """The films that the report names, below its folder. What is no film does not come."""
    for trial in fields.rows(report.get("trials")):
        with suppress(names.BadName):
            video = names.relative_path(trial.get("video"))
            if video.startswith("videos/") and video.endswith(".mp4"):
                yield video


def page(report: Mapping[str, Any]) -> str:
    """A contact sheet of one report. It stands beside videos/ and needs nothing else."""
    title = f"{report['checkpoint']['name']} on {report['protocol']['benchmark']}"
    body = "\n".join([_rates(report), *_notes(report), *(section for task in report["tasks"]
                                                         for section in _task(task, report["trials"]))])
    return (f"<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{_safe(title)}</title>\n"
            f"<style>\n{_STYLE}</style></head>\n<body>\n<h1>{_safe(title)}</h1>\n{body}\n</body></html>\n")


def _fetched(connection: Connection, evaluation: Evaluation, folder: Path, files: list[str]) -> Mapping[str, Any]:
    """The report, after it and its neighbours were brought home."""
    download(connection, plan_download(connection, evaluation.folder, folder, files=files))
    try:
        return fields.table(fields.loads((folder / "report.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise RdtopsError(f"the report of {evaluation.name} cannot be read: {error}",
                          remedy=f"inv logs --eval --run {evaluation.name}") from error


def _rates(report: Mapping[str, Any]) -> str:
    rows = "\n".join(f"<tr><td>{_safe(row['language'])}</td>{_numbers(row)}</tr>"
                     for row in [*report["tasks"], {"language": "all", **report["total"]}])
    return (f"<table><tr><th>task</th><th>success</th><th>rate</th><th>95 % interval</th><th>steps</th><th>errors</th>"
            f"</tr>\n{rows}\n</table>")


def _numbers(row: Mapping[str, Any]) -> str:
    rate, interval, steps = row["success_rate"], row["wilson_95"], row["mean_steps_to_success"]
    cells = [f"{row['successes']} of {row['trials']}", "" if rate is None else f"{100 * rate:.1f} %",
             "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %",
             "" if steps is None else f"{steps:.0f}", str(row["errors"] or "")]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    protocol = report["protocol"]
    yield (f"<p class=\"note\">at most {protocol['max_steps']} steps, {protocol['exec_horizon']} of "
           f"{protocol['pred_horizon']} predicted actions executed, codec {_safe(report['codec']['name'])}, seed "
           f"{protocol['seed']}; errors of the simulator count in no rate</p>")
    yield from (f"<p class=\"note\">{_safe(note)}</p>" for note in report["notes"])


def _task(task: Mapping[str, Any], trials: list[Mapping[str, Any]]) -> Iterator[str]:
    yield f"<h2>{_safe(task['language'])}</h2>\n<div class=\"grid\">"
    for trial in trials:
        if trial["task"] == task["name"]:
            yield _figure(trial)
    yield "</div>"


def _figure(trial: Mapping[str, Any]) -> str:
    words = f"trial {trial['trial']}: {trial['outcome']}, {trial['steps']} steps"
    said = trial.get("error") or trial.get("video_error") or ""
    shown = (f"<video controls muted loop preload=\"metadata\" src=\"{_safe(trial['video'])}\"></video>"
             if trial.get("video") else "")
    return (f"<figure class=\"{_safe(trial['outcome'])}\">{shown}"
            f"<figcaption>{_safe(words)} {_safe(said)}</figcaption></figure>")


def _safe(text: object) -> str:
    return html.escape(str(text), quote=True)
