"""README.md of a fetched run: what was run, on what, with what result, and what one may type next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rdtops.ops.render.words import duration, heldout_words, size
from rdtops.ops.report.folder import RunFolder
from rdtops.ops.report.page import changed_settings
from rdtops.ops.story import smoothed

FILES = {
    "report.html": "all of this as a page, with curves; opens without network",
    "config.json": "what was asked for: every setting, paths on the host",
    "journal.jsonl": "what happened, one event a line", "metrics.jsonl": "the numbers of each told step",
    "train.log": "what the trainer said", "statistics.json": "of the dataset, with the MD5 of each file",
    "checks.json": "what inv check said at the launch", "launch.sh": "what was started",
    "loss.png": "the loss curve", "eval": "evaluations: reports, trials, videos",
    "checkpoints": "each with its manifest.json: size and MD5 of every file"}


def write(run: RunFolder) -> Path:
    """Write README.md into the run's folder, unless it is there and says the same."""
    path, text = run.root / "README.md", "\n".join(_lines(run)) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def _lines(run: RunFolder) -> Iterator[str]:
    yield f"# {run.run_id}"
    yield ""
    yield f"{run.state.value} on {run.host}, created {run.config.get('created_at', '?')}."
    yield from _result(run)
    yield from _configuration(run)
    yield from _digests(run)
    yield from _next(run)
    yield "## Files\n"
    yield from (f"- `{name}`: {what}" for name, what in FILES.items() if (run.root / name).exists())


def _result(run: RunFolder) -> Iterator[str]:
    story = run.story
    yield "\n## Result\n"
    yield f"- step {run.last_step} of {run.max_steps}, {duration(run.trained_s)} from the first to the last sign"
    if story.loss:
        yield f"- loss {smoothed(story.loss)[-1][1]:.6f} (mean over the last twentieth)"
    if story.best:
        yield f"- best held-out loss {heldout_words(story.best.heldout_loss)}, at {story.best.name}"
    for saved in sorted(story.checkpoints.values(), key=lambda c: c.step):
        here = "here" if (run.root / "checkpoints" / saved.name).is_dir() else "on the host"
        yield f"- {saved.name}, {size(saved.size_bytes)}, {here}, digest {saved.digest}"
    for evaluated in run.evaluations:
        total = evaluated.report["total"]
        low, high = total.get("wilson_95") or (0.0, 1.0)
        yield (f"- {evaluated.name}: {total['successes']} of {total['trials']} succeeded, 95 % interval "
               f"{100 * low:.1f} to {100 * high:.1f} %")


def _configuration(run: RunFolder) -> Iterator[str]:
    changed = list(changed_settings(run.train))
    yield f"\n## Configuration\n\nPreset `{run.train.get('preset', '?')}`, {'with' if changed else 'unchanged.'}\n"
    yield from (f"- `{key} = {value}` (preset: {usual})" for key, (value, usual) in changed)


def _digests(run: RunFolder) -> Iterator[str]:
    yield "\n## Code and data\n"
    yield f"- code: snapshot `{run.config.get('snapshot', '?')}`"
    yield f"- configuration: `{run.config.get('train_digest', '?')}`"
    files = run.statistics.get("files")
    yield from (f"- data: `{name}` MD5 `{md5}`" for name, md5 in (files.items() if isinstance(files, dict) else ()))


def _next(run: RunFolder) -> Iterator[str]:
    where = f"--host {run.host}"
    yield "\n## What one may type next\n"
    yield f"    inv train {where} --resume {run.run_id}            # go on from its newest valid checkpoint"
    yield f"    inv eval {where} --run {run.run_id} --checkpoint best --record-video"
    yield f"    inv fetch-results {where} --run {run.run_id} --checkpoint all"
    yield f"    inv checkpoints {where} --run {run.run_id} --verify"
    yield ""
