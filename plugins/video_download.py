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
    names,
    pages,
    plan_download,
    tallies,
)

PAGE: Final = "index.html"
FILES = ("eval.json", "report.json", "trials.jsonl")
OPTIONS = {"into": Option(str, "the folder on this laptop, by default that of `inv fetch-results`", "results")}
TIME_LIMIT_S = {"after_eval": 3600}  # many videos over a slow connection
OUTCOMES = ("success", "failure", "error")
TEMPLATE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1120px; padding: 0 1rem;
       background: #14161a; color: #e6e6e6 }
table { border-collapse: collapse } td, th { padding: .2rem 1rem .2rem 0; text-align: left; font-weight: normal }
th, .note, figcaption { color: #9aa0a8 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1rem }
figure { margin: 0; border-left: 4px solid #9aa0a8; padding-left: .6rem } video { width: 100%; display: block }
figure.success { border-color: #7ee787 } figure.failure { border-color: #ff9c8f }
</style></head>
<body>
<h1>{{ title }}</h1>
<table><tr><th>task</th><th>success</th><th>rate</th><th>95 % interval</th><th>steps</th><th>errors</th></tr>
{% for row in tallies %}
<tr>
{%- for cell in (row.language, row.counts_words, row.rate_words, row.interval_words, row.steps_words,
                 row.errors_words) %}<td>{{ cell }}</td>{% endfor -%}
</tr>
{% endfor %}
</table>
<p class="note">at most {{ protocol.max_steps | number or "?" }} steps,
{{ protocol.exec_horizon | number or "?" }} of {{ protocol.pred_horizon | number or "?" }} predicted actions executed,
codec {{ codec }}, seed {{ protocol.seed | number or "?" }}; errors of the simulator count in no rate</p>
{% for note in notes %}
<p class="note">{{ note }}</p>
{% endfor %}
{% for task in tasks %}
<h2>{{ task.language }}</h2>
<div class="grid">
{% for trial in task.trials %}
<figure class="{{ trial.css_class }}">
{%- if trial.video %}
<video controls muted loop preload="metadata" src="{{ trial.video | address }}"></video>
{%- endif -%}
<figcaption>trial {{ trial.number | number or "?" }}: {{ trial.outcome or "?" }},
{{- " " }}{{ trial.steps | number or "?" }} steps {{ trial.said }}</figcaption></figure>
{% endfor %}
</div>
{% endfor %}
</body></html>
"""


@hookimpl
def after_eval(host: Host, connection: Connection, run: RunSpec, evaluation: Evaluation,
               options: Mapping[str, Any]) -> dict[str, Any]:
    """Download into results/<host>/<run>/eval/<name>/, verified; existing files are not sent again."""
    folder = Path(options["into"]).expanduser() / Path(host.name) / run.run_id / "eval" / evaluation.name
    report = _fetched(connection, evaluation, folder, list(FILES))
    videos = [video for trial in fields.rows(report.get("trials")) if (video := video_of(trial))]
    if videos:
        download(connection, plan_download(connection, evaluation.folder, folder, files=videos))
    pages.write(folder / PAGE, page(report))
    return {"page": str(folder / PAGE), "videos": len(videos)}


def _fetched(connection: Connection, evaluation: Evaluation, folder: Path, files: list[str]) -> Mapping[str, Any]:
    """Download the files, and return the report."""
    download(connection, plan_download(connection, evaluation.folder, folder, files=files))
    try:
        return fields.table(fields.loads((folder / "report.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise RdtopsError(f"the report of {evaluation.name} cannot be read: {error}",
                          remedy=f"inv logs --eval --run {evaluation.name}") from error


# --- the page ---

def page(report: Mapping[str, Any]) -> str:
    """Return the page of one report; it lies beside videos/ and needs nothing else."""
    protocol, trials = fields.table(report.get("protocol")), fields.rows(report.get("trials"))
    checkpoint, codec = fields.table(report.get("checkpoint")), fields.table(report.get("codec"))
    return pages.html_page(TEMPLATE).render(
        title=f"{fields.text(checkpoint.get('name')) or '?'} on {fields.text(protocol.get('benchmark')) or '?'}",
        tallies=tallies(report, "all"), notes=fields.words(report.get("notes")),
        protocol={name: protocol.get(name) for name in ("max_steps", "exec_horizon", "pred_horizon", "seed")},
        codec=fields.text(codec.get("name")) or "?",
        tasks=[{"language": task.get("language", "?"),
                "trials": [_shown(trial) for trial in trials if trial.get("task") == task.get("name")]}
               for task in fields.rows(report.get("tasks"))])


def _shown(trial: Mapping[str, Any]) -> dict[str, Any]:
    outcome = fields.text(trial.get("outcome"))
    return {"css_class": outcome if outcome in OUTCOMES else "", "video": video_of(trial), "outcome": outcome,
            "number": trial.get("trial"), "steps": trial.get("steps"),
            "said": fields.text(trial.get("error")) or fields.text(trial.get("video_error"))}


def video_of(trial: Mapping[str, Any]) -> str:
    """Return the video of a trial, relative to the report; '' when it is missing or not a valid path."""
    try:
        path = names.relative_path(trial.get("video"))
    except names.BadName:
        return ""
    return path if path.startswith("videos/") and path.endswith(".mp4") else ""
