"""Page: the content of each section of a run's report; templates/page.html has the layout."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from rdtops import pages
from rdtops.checks import Status
from rdtops.contract.config import PRESETS
from rdtops.contract.run import Checkpoint, RunState
from rdtops.contract.tally import tallies
from rdtops.hostlib import fields, files
from rdtops.hostlib.names import CheckpointName
from rdtops.report import curve
from rdtops.report.chart import ChartLine, curves, intervals
from rdtops.report.folder import Evaluated, RunFolder
from rdtops.report.templates import TEMPLATES
from rdtops.runs.story import Story, smoothed
from rdtops.ssh.display import log_text
from rdtops.views.journal_output import words_of
from rdtops.views.words import duration, exit_words, heldout_words, size

NAME: Final = "report.html"
EMBEDDED_BYTES = 2 << 20  # of one video; a larger one is linked
EMBEDDED_TOTAL_BYTES = 24 << 20
QUIET = ("heldout", "sample", "checkpoint_deleted")  # events that curves and tables show
WORST_FIRST = (Status.FAIL, Status.WARN, Status.OK, Status.SKIP)


def write(run: RunFolder) -> Path:
    """Write report.html into the run's folder, unless it is there with the same content."""
    return pages.write(run.root / NAME, page(run))


def page(run: RunFolder) -> str:
    """Return the HTML; the same folder always gives the same text."""
    return TEMPLATES.get_template("page.html").render(
        run=run, story=run.story, facts=_facts(run), failure=_failure(run), **_curves(run.story), **_split(run.story),
        model="  ·  ".join(pages.text(run.train[key]) for key in ("preset", "model", "dataset") if run.train.get(key)),
        checkpoints=[_saved(run, c) for c in sorted(run.story.checkpoints.values(), key=lambda c: c.step)],
        evaluations=list(_evaluations(run)), **_checks(run), events=list(_events(run)),
        changed=dict(changed_settings(run.train)), digests=list(_digests(run)), log=log_text(run.log_tail))


def changed_settings(train: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the settings that differ from today's preset of the run, with both values."""
    preset = PRESETS.get(fields.text(train.get("preset")))
    usual = preset().to_json() if preset else {}
    yield from ((key, (value, usual.get(key, "-"))) for key, value in train.items()
                if preset and usual.get(key) != value)


def _facts(run: RunFolder) -> dict[str, str]:
    story = run.story
    return {"step": f"{run.last_step:,} of {run.max_steps:,}" if run.max_steps else f"{run.last_step:,}",
            "loss, mean of the last": f"{smoothed(story.loss)[-1][1]:.5f}" if story.loss else "",
            "validation loss, best": heldout_words(min(loss for _, loss in story.heldout)) if story.heldout else "",
            "samples/s": f"{story.speed[-1][1]:.1f}" if story.speed else "",
            "from first to last event": duration(run.trained_s) if run.trained_s else "",
            "checkpoints kept": str(len(story.checkpoints))}


def _failure(run: RunFolder) -> str:
    if run.state not in (RunState.FAILED, RunState.LOST):
        return ""
    failed = next((e for e in reversed(run.story.others) if e.kind == "failed"), None)
    error = pages.text(failed.data.get("error", "")) if failed else log_text(run.log_tail).strip().rpartition("\n")[2]
    remedy = pages.text(failed.data.get("remedy", "")) if failed else ""
    return "\n".join([exit_words(run.exit_code), error, *([f"-> {remedy}"] if remedy else [])])


def _curves(story: Story) -> dict[str, Markup]:
    return {"loss": curves(curve.lines(story), marks=curve.marks(story), unit="loss"),
            "speed": curves([ChartLine("samples/s", story.speed, "speed")], unit="samples/s"),
            "learning_rate": curves([ChartLine("learning rate", story.learning_rate, "loss")], unit="learning rate")}


def _split(story: Story) -> dict[str, Any]:
    step_s = story.step_s
    return {"step_words": f"{step_s:.3f} s", "split": [
        {"name": name, "words": f"{s:.3f} s", "percent": f"{100 * s / step_s:.2f}",
         "share_words": f"{100 * s / step_s:.0f} %"} for name, s in story.split.items()] if step_s else []}


def _saved(run: RunFolder, saved: Checkpoint) -> dict[str, str]:
    marks = ", ".join(word for word, one in (("best", run.story.best), ("latest", run.story.latest)) if one is saved)
    return {"marks": marks, "step": f"{saved.step:,}", "name": saved.name, "folder": home(run, saved.name),
            "size": size(saved.size_bytes), "heldout": heldout_words(saved.heldout_loss), "digest": saved.digest}


def home(run: RunFolder, name: CheckpointName) -> str:
    """Return the folder of a fetched checkpoint, relative to the page; '' where there is none."""
    return f"checkpoints/{name}" if (run.root / "checkpoints" / name).is_dir() else ""


@dataclass(frozen=True)
class _Video:
    """A video: a small one is embedded in the page, a large one is linked."""

    path: str  # relative to the page
    name: str
    content: str  # base64; '' of a large one


def _evaluations(run: RunFolder) -> Iterator[dict[str, Any]]:
    left = EMBEDDED_TOTAL_BYTES
    for evaluated in run.evaluations:
        found = tallies(evaluated.report, "all tasks")
        videos = list(_videos(run.root, evaluated, left))
        left -= sum(len(video.content) * 3 // 4 for video in videos)
        yield {"name": evaluated.name, "tallies": found, "bars": intervals(found), "videos": videos,
               "notes": fields.words(evaluated.report.get("notes"))}


def _videos(root: Path, evaluated: Evaluated, left_bytes: int) -> Iterator[_Video]:
    for name in evaluated.videos:
        limit = min(EMBEDDED_BYTES, left_bytes)
        try:
            content = files.head_of(root / name, limit + 1)
        except OSError:  # not a regular file
            continue
        is_embedded = len(content) <= limit
        left_bytes -= len(content) if is_embedded else 0
        yield _Video(name, Path(name).stem, base64.b64encode(content).decode() if is_embedded else "")


def _checks(run: RunFolder) -> dict[str, Any]:
    found = sorted(map(_finding, fields.rows(fields.table(run.checks).get("results"))), key=lambda one: one["rank"])
    counts = Counter(one["rank"] for one in found)
    return {"checks": found, "checks_worth_reading": [one for one in found if one["is_worth_reading"]],
            "checks_summary": ", ".join(f"{counts[rank]} {status.value}" for rank, status in enumerate(WORST_FIRST)
                                        if counts[rank])}


def _finding(result: Mapping[str, Any]) -> dict[str, Any]:
    word = result.get("status", "")
    rank = next((rank for rank, status in enumerate(WORST_FIRST) if status.value == word), len(WORST_FIRST))
    css_class = [*(status.value.lower() for status in WORST_FIRST), ""][rank]
    is_worth_reading = css_class in ("fail", "warn")
    return {"rank": rank, "status": word, "css_class": css_class, "is_worth_reading": is_worth_reading,
            "name": result.get("name", ""), "summary": result.get("summary", ""),
            "below": [result[key] for key in ("evidence", "remedy") if result.get(key) and is_worth_reading]}


def _events(run: RunFolder) -> Iterator[tuple[str, str]]:
    yield from ((_moment(e.time_s), words_of(e, run.max_steps)) for e in run.story.others if e.kind not in QUIET)


def _moment(time_s: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_s)) if time_s else ""
    except (OverflowError, ValueError, OSError):  # a host may send any number
        return "?"


def _digests(run: RunFolder) -> Iterator[tuple[str, Any]]:
    yield "code", run.config.get("snapshot", "?")
    yield "configuration", run.config.get("train_digest", "?")
    yield from ((f"data: {name}", md5) for name, md5 in fields.table(run.statistics.get("files")).items())
    yield from run.identities
    yield from ((f"checkpoint: {c.name}", c.digest) for c in run.story.checkpoints.values())
