"""README.md of a fetched run: configuration, data, results, and the next commands."""

from __future__ import annotations

from pathlib import Path

from rdtops import pages
from rdtops.hostlib import fields
from rdtops.report.folder import RunFolder
from rdtops.report.page import changed_settings, home
from rdtops.report.templates import MARKDOWN
from rdtops.runs.story import smoothed
from rdtops.views.words import duration, heldout_words, size

FILES = {
    "report.html": "all of this as a page, with curves; opens without network",
    "config.json": "what was requested: every setting, paths on the host",
    "journal.jsonl": "what happened, one event a line", "metrics.jsonl": "the numbers of each logged step",
    "gpus.jsonl": "the use of its GPUs, a sample a minute",
    "train.log": "the output of the trainer", "statistics.json": "of the dataset, with the MD5 of each file",
    "assets.json": "what was read: the MD5 of each file of data, encoders, tokenizer and first weights",
    "checks.json": "the results of inv check at the launch", "launch.sh": "the script that was started",
    "loss.svg": "the loss curve", "loss.png": "the same for programs that show no SVG (with the extra `plots`)",
    "eval": "evaluations: reports, trials, videos",
    "checkpoints": "each with its manifest.json: size and MD5 of every file"}


def write(run: RunFolder) -> Path:
    """Write README.md into the run's folder, unless it is there with the same content."""
    return pages.write(run.root / "README.md", readme(run))


def readme(run: RunFolder) -> str:
    story = run.story
    return MARKDOWN.get_template("readme.md").render(
        run=run, trained=duration(run.trained_s), loss=f"{smoothed(story.loss)[-1][1]:.6f}" if story.loss else "",
        best=story.best and {"name": story.best.name, "heldout": heldout_words(story.best.heldout_loss)},
        checkpoints=[{"name": c.name, "size": size(c.size_bytes), "digest": c.digest,
                      "place": "here" if home(run, c.name) else "on the host"}
                     for c in sorted(story.checkpoints.values(), key=lambda c: c.step)],
        evaluations=run.evaluations,
        changed={f"{key} = {pages.text(value)}": usual for key, (value, usual) in changed_settings(run.train)},
        data=fields.table(run.statistics.get("files")),
        files={name: what for name, what in FILES.items() if (run.root / Path(name)).exists()})
