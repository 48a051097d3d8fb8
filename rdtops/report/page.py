"""Page: the content of each section of a run's report; templates/page.html has the layout."""

from __future__ import annotations

import base64
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from rdtops import pages
from rdtops.checks import Status
from rdtops.contract.config import NULLS, PRESETS
from rdtops.contract.outcomes import TrialOutcome, trial_outcomes
from rdtops.contract.run import Checkpoint, RunState
from rdtops.hostlib import fields, files
from rdtops.hostlib.names import CheckpointName, RelativePath
from rdtops.pages.gallery import Film, Gallery
from rdtops.report import curve
from rdtops.report.breaks import sentences
from rdtops.report.chart import ChartLine, curves
from rdtops.report.folder import Evaluated, RunFolder
from rdtops.report.gpu_use import GpuUse
from rdtops.report.templates import TEMPLATES
from rdtops.runs.story import Story, smoothed
from rdtops.ssh.display import log_text, shown
from rdtops.views.journal_output import words_of
from rdtops.views.words import duration, exit_words, heldout_words, mfu_words, size

NAME: Final = "report.html"
EMBEDDED_BYTES = 2 << 20  # of one video; a larger one is linked
EMBEDDED_TOTAL_BYTES = 24 << 20
QUIET = ("heldout", "sample", "checkpoint_deleted")  # events that curves and tables show
COMPUTING = ("encode", "forward", "backward", "optimiser")  # phases of a step in which a GPU works
TASKS = 6  # that are named at the top
WORST_FIRST = (Status.FAIL, Status.WARN, Status.OK, Status.SKIP)


def write(run: RunFolder) -> Path:
    """Write report.html into the run's folder, unless it is there with the same content."""
    return pages.write(run.root / NAME, page(run))


def page(run: RunFolder) -> str:
    """Return the HTML; the same folder always gives the same text."""
    return TEMPLATES.get_template("page.html").render(
        run=run, story=run.story, facts=_facts(run), header=_header(run), failure=_failure(run),
        best_rate=success(run)[0], **_curves(run.story), breaks=sentences(run.story),
        gpu=_gpu(run), gpu_charts=_gpu_charts(run.gpu_use), **_split(run.story),
        checkpoints=[_saved(run, c) for c in sorted(run.story.checkpoints.values(), key=lambda c: c.step)],
        evaluations=dict(_evaluations(run)), **_checks(run), events=list(_events(run)),
        changed=dict(changed_settings(run.train)),
        digests=[*digests(run), *_checkpoints(run.story)],
        log=log_text(run.log_tail))


def changed_settings(train: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the settings that differ from today's preset of the run, with both values."""
    preset = PRESETS.get(fields.text(train.get("preset")))
    usual = preset().to_json() if preset else {}
    yield from ((key, (value, usual.get(key, "-"))) for key, value in train.items()
                if preset and usual.get(key) != value)


def success(run: RunFolder) -> tuple[str, str]:
    """Return the best rate of all evaluations, and what it is of; '' and '' while there is none."""
    best = run.best_evaluation
    if best is None:
        return "", ""
    checkpoint, benchmark = (pages.text(fields.table(best.report.get(table)).get(name, "?"))
                             for table, name in (("checkpoint", "name"), ("protocol", "benchmark")))
    rated = sum(e.total.rate is not None for e in run.evaluations)
    of_all = f", the best of {rated} evaluations" if rated > 1 else ""
    return f"{best.total.rate_words} success", f"{best.total.counts_words} trials, {checkpoint} on {benchmark}{of_all}"


def command(run: RunFolder) -> str:
    """Return the command line that asks for this training; '' where its preset is not one of today's."""
    if fields.text(run.train.get("preset")) not in PRESETS:
        return ""
    asked = [f"{key}={_setting(value)}" for key, (value, _) in changed_settings(run.train) if key != "accept_changed"]
    words = ["inv", "train", "--host", run.host, "--preset", run.train["preset"],
             *(word for setting in asked for word in ("--set", setting))]
    return shlex.join(map(shown, words))


def task_words(run: RunFolder) -> str:
    """Return what the training teaches: the instructions of its demonstrations, else those of its evaluations."""
    told = run.instructions or list(dict.fromkeys(
        fields.text(row.get("language")) for e in run.evaluations for row in fields.rows(e.report.get("tasks"))))
    told = [words for words in told if words]
    more = f", and {len(told) - TASKS} more" if len(told) > TASKS else ""
    return "; ".join(told[:TASKS]) + more


def _setting(value: object) -> str:
    return NULLS[0] if value is None else str(value).lower() if isinstance(value, bool) else pages.text(value)


def _header(run: RunFolder) -> dict[str, str]:
    model = (pages.text(run.train[key]) for key in ("model", "dataset", "preset") if run.train.get(key))
    return {"task": task_words(run), "command": command(run),
            "code revision": pages.text(run.config.get("snapshot", "?")),
            "model, data, preset": ", ".join(model), "host": run.host,
            "created": pages.text(run.config.get("created_at", "?"))}


def _facts(run: RunFolder) -> dict[str, str]:
    story = run.story
    rate, of_what = success(run)
    return {of_what: rate,
            "step": f"{run.last_step:,} of {run.max_steps:,}" if run.max_steps else f"{run.last_step:,}",
            "loss, mean of the last": f"{smoothed(story.loss)[-1][1]:.5f}" if story.loss else "",
            "validation loss, best": heldout_words(min(loss for _, loss in story.heldout)) if story.heldout else "",
            "samples/s": f"{story.speed[-1][1]:.1f}" if story.speed else "",
            "useful arithmetic of a GPU": useful_words(story),
            "from first to last event": duration(run.trained_s) if run.trained_s else "",
            "checkpoints kept": str(len(story.checkpoints))}


def _failure(run: RunFolder) -> str:
    if run.state not in (RunState.FAILED, RunState.LOST):
        return ""
    failed = next((e for e in reversed(run.story.others) if e.kind == "failed"), None)
    error = pages.text(failed.data.get("error", "")) if failed else log_text(run.log_tail).strip().rpartition("\n")[2]
    remedy = pages.text(failed.data.get("remedy", "")) if failed else ""
    return "\n".join([exit_words(run.exit_code), error, *([f"-> {remedy}"] if remedy else [])])


def _curves(story: Story) -> dict[str, Any]:
    marks, memory = curve.marks(story), [(step, mib / 1024) for step, mib in story.memory]
    more = {name: curves([ChartLine(name, points, css_class)], marks=marks, unit=name)
            for name, points, css_class in (("samples/s", story.speed, "speed"),
                                            ("learning rate", story.learning_rate, "loss"),
                                            ("gradient norm", story.grad_norm, "loss"))}
    return {"loss": curves(curve.lines(story), marks=marks, unit="loss"),
            "more": {name: drawn for name, drawn in more.items() if drawn},
            "memory": curves([ChartLine("peak memory of rank 0", memory, "speed")], unit="GiB")}


def _gpu_charts(use: GpuUse) -> list[Markup]:
    drawn = [curves([ChartLine("mean of the GPUs", use.mean("utilization_percent"), "loss"),
                     ChartLine("least busy GPU", use.least("utilization_percent"), "heldout")],
                    unit="load in %", by="hour"),
             curves([ChartLine("mean of the GPUs", use.mean("power_w"), "loss")], unit="power in W", by="hour")]
    return [chart for chart in drawn if chart]


def gpu_words(run: RunFolder) -> str:
    """Return the processes and devices of the training, as it has reported them; '' before it did."""
    started = run.story.started.data if run.story.started else {}
    return f"{pages.text(started.get('world_size', '?'))} x {pages.text(started.get('device', '?'))}" if started else ""


def useful_words(story: Story) -> str:
    """Return text such as `128 TFLOP/s, MFU 41 %`; '' for a run that does not tell it."""
    tflop_per_s, mfu = story.useful_flops
    if tflop_per_s is None:
        return ""
    return f"{tflop_per_s:.3g} TFLOP/s, {mfu_words(mfu) or 'MFU unknown'}"


def peak_memory_words(story: Story) -> str:
    return f"{max(mib for _, mib in story.memory) / 1024:.1f} GiB, of rank 0" if story.memory else ""


def _gpu(run: RunFolder) -> dict[str, str]:
    """Return what is known of the use of the GPUs, by name."""
    story, split = run.story, run.story.split
    found = {"trained on": gpu_words(run), **run.gpu_use.words, "peak memory": peak_memory_words(story)}
    if split:
        busy = sum(split.get(name, 0.0) for name in COMPUTING) / story.step_s
        found["computing"] = f"{100 * busy:.0f} % of a step's time ({', '.join(COMPUTING)}), of rank 0"
    return {name: words for name, words in found.items() if words}


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


def _evaluations(run: RunFolder) -> Iterator[tuple[str, Gallery]]:
    """Yield each evaluation with its videos, the best first: small ones are part of the page, others are linked."""
    left = EMBEDDED_TOTAL_BYTES
    rated = sorted(run.evaluations, key=lambda e: -1.0 if e.total.rate is None else e.total.rate, reverse=True)
    for evaluated in rated:
        sources = {}
        for name in evaluated.videos:
            with suppress(OSError):  # not a regular file
                sources[name], size_bytes = _source(run.root, name, min(EMBEDDED_BYTES, left))
                left -= size_bytes
        yield evaluated.name, _gallery(evaluated, sources)


def _gallery(evaluated: Evaluated, sources: dict[RelativePath, str]) -> Gallery:
    def source(trial: TrialOutcome) -> str:
        return sources.get(_within(evaluated, trial), "") if trial.video else ""

    of_trials = {_within(evaluated, trial) for trial in trial_outcomes(evaluated.report) if trial.video}
    return Gallery.of(evaluated.report, source, problem=evaluated.problem, only_videos=True,
                      others=(Film("", Path(name).stem, "", address) for name, address in sources.items()
                              if name not in of_trials))


def _within(evaluated: Evaluated, trial: TrialOutcome) -> RelativePath:
    return RelativePath(f"eval/{evaluated.name}/{trial.video}")


def _source(root: Path, name: RelativePath, limit_bytes: int) -> tuple[str, int]:
    """Return the address of a video, and how many bytes of it are part of the page. Raises OSError."""
    content = files.head_of(root / name, limit_bytes + 1)
    if len(content) > limit_bytes:
        return pages.address(name), 0
    return f"data:video/mp4;base64,{base64.b64encode(content).decode()}", len(content)


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


def digests(run: RunFolder) -> Iterator[tuple[str, Any]]:
    """Yield what the training was made of: code, configuration, data, encoders and first weights."""
    yield "code", run.config.get("snapshot", "?")
    yield "configuration", run.config.get("train_digest", "?")
    yield from ((f"data: {name}", md5) for name, md5 in fields.table(run.statistics.get("files")).items())
    yield from run.identities


def _checkpoints(story: Story) -> Iterator[tuple[str, str]]:
    yield from ((f"checkpoint: {c.name}", c.digest) for c in story.checkpoints.values())
