"""The page: the sections of a run's report, as one HTML text."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from rdtops.contract.config import PRESETS
from rdtops.contract.run import RunState
from rdtops.ops.render.journal import words_of
from rdtops.ops.render.words import duration, heldout_words, size
from rdtops.ops.report.chart import Line, curves, intervals
from rdtops.ops.report.folder import Evaluated, RunFolder
from rdtops.ops.story import smoothed

NAME = "report.html"
EMBEDDED_BYTES = 2 << 20  # of one video; a larger one is linked
EMBEDDED_TOTAL_BYTES = 24 << 20
QUIET = ("heldout", "sample", "checkpoint_deleted")  # events that the curves and tables show already
WORST_FIRST = {"FAIL": 0, "WARN": 1, "OK": 2, "SKIP": 3}


def write(run: RunFolder) -> Path:
    """Write report.html into the run's folder, unless it is there and says the same."""
    path, text = run.root / NAME, page(run)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def page(run: RunFolder) -> str:
    """Always the same text for the same folder."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    parts = (_curves, _split, _checkpoints, _evaluations, _checks, _events, _configuration, _digests, _log)
    sections = "\n".join(section for section in (part(run) for part in parts) if section)
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(run.run_id)}</title>'
            f"<style>\n{style}</style></head><body>\n{_head(run)}\n{sections}\n"
            f"<footer>Written by <code>inv report</code> of rdtops from this run's own files.</footer></body></html>\n")


def _head(run: RunFolder) -> str:
    story, state = run.story, run.state
    facts = {"step": f"{run.last_step:,} of {run.max_steps:,}" if run.max_steps else f"{run.last_step:,}",
             "loss, mean of the last": f"{smoothed(story.loss)[-1][1]:.5f}" if story.loss else "",
             "held-out loss, best": heldout_words(min(loss for _, loss in story.heldout)) if story.heldout else "",
             "samples/s": f"{story.speed[-1][1]:.1f}" if story.speed else "",
             "from first to last sign": duration(run.trained_s) if run.trained_s else "",
             "checkpoints kept": str(len(story.checkpoints))}
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>"
                    for name, value in facts.items() if value)
    model = "  ·  ".join(str(run.train[key]) for key in ("preset", "model", "dataset") if run.train.get(key))
    return (f'<h1>{escape(run.run_id)}<span class="state {state.value}">{state.value}</span></h1>'
            f'<p class="faint">{escape(model)}  ·  on {escape(run.host)}  ·  '
            f'created {escape(str(run.config.get("created_at", "?")))}</p>{_failure(run)}'
            f'<div class="facts">{cells}</div>')


def _failure(run: RunFolder) -> str:
    if run.state not in (RunState.FAILED, RunState.LOST):
        return ""
    failed = next((e for e in reversed(run.story.others) if e.kind == "failed"), None)
    said = str(failed.data.get("error", "")) if failed else run.log_tail.strip().rpartition("\n")[2]
    remedy = str(failed.data.get("remedy", "")) if failed else ""
    code = "no exit code: killed, or the host rebooted" if run.exit_code is None else f"exit {run.exit_code}"
    return f'<pre class="fail">{escape(code)}\n{escape(said)}{escape(chr(10) + "-> " + remedy if remedy else "")}</pre>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>" if body else ""


def _table(heads: list[str], rows: list[list[str]], numbers: tuple[int, ...] = ()) -> str:
    """Cells are HTML already."""
    def cell(tag: str, column: int, text: str) -> str:
        return f'<{tag}{" class=number" if column in numbers else ""}>{text}</{tag}>'

    head = "".join(cell("th", i, escape(h)) for i, h in enumerate(heads))
    body = "".join("<tr>" + "".join(cell("td", i, c) for i, c in enumerate(row)) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _curves(run: RunFolder) -> str:
    story = run.story
    marks = [(float(c.step), f"{c.name}, {size(c.size_bytes)}") for c in story.checkpoints.values()]
    loss = curves([Line("each told step", story.loss, "raw"), Line("running mean", smoothed(story.loss), "loss"),
                   Line("held-out samples", story.heldout, "heldout", dots=True)], marks=marks, unit="loss")
    speed = curves([Line("samples/s", story.speed, "speed")], unit="samples/s")
    rate = curves([Line("learning rate", story.learning_rate, "loss")], unit="learning rate")
    more = f"<details><summary>speed and learning rate</summary>{speed}{rate}</details>" if speed else ""
    dotted = '<p class="faint">Dotted: a checkpoint that is kept.</p>' if loss and marks else ""
    return _section("Loss", loss + dotted + more)


def _split(run: RunFolder) -> str:
    split, step_s = run.story.split, run.story.step_s
    if not split or not step_s:
        return ""
    bars = "".join(f'<div class="p{i}" style="width:{100 * s / step_s:.2f}%" title="{escape(word)}: {s:.3f} s"></div>'
                   for i, (word, s) in enumerate(split.items()))
    keys = "".join(f'<span><i class="p{i}"></i>{escape(word)} {s:.3f} s, {100 * s / step_s:.0f} %</span>'
                   for i, (word, s) in enumerate(split.items()))
    return _section(f"Where a step of {step_s:.3f} s goes",
                    f'<div class="split">{bars}</div><div class="keys">{keys}</div>'
                    '<p class="faint">Of rank 0, the mean of the last told steps.</p>')


def _checkpoints(run: RunFolder) -> str:
    best, latest = run.story.best, run.story.latest
    rows = []
    for saved in sorted(run.story.checkpoints.values(), key=lambda c: c.step):
        marks = ", ".join(word for word, one in (("best", best), ("latest", latest)) if one is saved)
        home = f"checkpoints/{saved.name}"
        name = f'<a href="{home}/">{escape(saved.name)}</a>' if (run.root / home).is_dir() else escape(saved.name)
        rows.append([f"<b>{marks}</b>", f"{saved.step:,}", name, size(saved.size_bytes),
                     heldout_words(saved.heldout_loss), f"<code>{escape(saved.digest)}</code>"])
    if not rows:
        return ""
    return _section("Checkpoints", _table(["", "step", "name", "size", "held-out loss", "digest of its manifest"], rows,
                                          (1, 3, 4)))


def _evaluations(run: RunFolder) -> str:
    left = EMBEDDED_TOTAL_BYTES
    parts = []
    for evaluated in run.evaluations:
        videos, used = _videos(run.root, evaluated, left)
        left -= used
        parts.append(_rates(evaluated) + videos)
    return _section("Evaluations", "".join(parts))


def _rates(evaluated: Evaluated) -> str:
    report = evaluated.report
    rows, bars = [], []
    for row in [*report.get("tasks", ()), {"language": "all tasks", **report["total"]}]:
        rate, interval, steps = row.get("success_rate"), row.get("wilson_95"), row.get("mean_steps_to_success")
        shown = "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
        rows.append([escape(str(row["language"])), f"{row['successes']} of {row['trials']}",
                     "" if rate is None else f"{100 * rate:.1f} %", shown, "" if steps is None else f"{steps:.0f}",
                     str(row.get("errors") or "")])
        if rate is not None and interval is not None:
            bars.append((str(row["language"]), rate, (interval[0], interval[1]), f"{100 * rate:.1f} %, {shown}"))
    notes = "".join(f'<p class="warn">note: {escape(str(note))}</p>' for note in report.get("notes", ()))
    heads = ["task", "success", "rate", "95 % interval (Wilson)", "steps to it", "errors"]
    table = _table(heads, rows, (1, 2, 3, 4, 5))
    return f"<h3>{escape(evaluated.name)}</h3>{intervals(bars) if bars else ''}{table}{notes}"


def _videos(root: Path, evaluated: Evaluated, left_bytes: int) -> tuple[str, int]:
    """Small ones are part of the page, large ones are linked beside it. Returns the bytes that were embedded too."""
    parts, used = [], 0
    for name in evaluated.videos:
        content_bytes = (root / name).stat().st_size
        is_embedded = content_bytes <= min(EMBEDDED_BYTES, left_bytes - used)
        source = escape(name)
        if is_embedded:
            used += content_bytes
            source = "data:video/mp4;base64," + base64.b64encode((root / name).read_bytes()).decode()
        parts.append(f'<figure><video controls preload="metadata" src="{source}"></video><figcaption>'
                     f'<a href="{escape(name)}">{escape(Path(name).stem)}</a></figcaption></figure>')
    return (f'<h3>Videos</h3><div class="videos">{"".join(parts)}</div>' if parts else ""), used


def _checks(run: RunFolder) -> str:
    if run.checks is None:
        return ""
    found = sorted(run.checks.get("results", ()), key=lambda r: WORST_FIRST.get(str(r.get("status")), 9))
    rows = [[f'<b class="word {str(r.get("status", "")).lower()}">{escape(str(r.get("status", "")))}</b>',
             f'<span class="word">{escape(str(r.get("name", "")))}</span>', _finding(r)] for r in found]
    if not rows:
        return ""
    counts = Counter(str(r.get("status")) for r in found)
    worth = [row for row, r in zip(rows, found, strict=True) if r.get("status") in ("FAIL", "WARN")]
    summary = ", ".join(f"{counts[word]} {word}" for word in WORST_FIRST if counts[word])
    return _section("What inv check said at the launch",
                    f"{_table(['', 'check', 'finding'], worth) if worth else ''}<details><summary>{summary}: every "
                    f"finding</summary>{_table(['', 'check', 'finding'], rows)}</details>")


def _finding(result: Mapping[str, Any]) -> str:
    more = "".join(f'<br><span class="faint">{escape(str(result[key]))}</span>' for key in ("evidence", "remedy")
                   if result.get(key) and result.get("status") in ("WARN", "FAIL"))
    return escape(str(result.get("summary", ""))) + more


def _events(run: RunFolder) -> str:
    rows = [[f'<span class="mono faint">{_moment(e.time_s)}</span>', escape(words_of(e, run.max_steps))]
            for e in run.story.others if e.kind not in QUIET]
    return _section("Events", _table(["time (UTC)", "what happened"], rows)) if rows else ""


def _moment(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_s)) if time_s else ""


def _configuration(run: RunFolder) -> str:
    if not run.train:
        return ""
    changed = dict(changed_settings(run.train))
    rows = [[f"<code>{escape(key)}</code>", f"<code>{escape(value)}</code>",
             f'<span class="faint">preset: {escape(usual)}</span>'] for key, (value, usual) in changed.items()]
    preset = escape(str(run.train.get("preset", "")))
    said = (_table(["set differently from the preset", "", ""], rows) if rows
            else f'<p class="faint">Every value is that of the preset {preset}.</p>')
    every = "\n".join(f"{key} = {value}" for key, value in run.train.items())
    return _section("Configuration",
                    f"{said}<details><summary>every value</summary><pre>{escape(every)}</pre></details>")


def changed_settings(train: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The settings that are not as the run's preset has them today, with both values."""
    preset = PRESETS.get(str(train.get("preset")))
    usual = preset().to_json() if preset else {}
    yield from ((key, (str(value), str(usual.get(key, "-")))) for key, value in train.items()
                if preset and usual.get(key) != value)


def _digests(run: RunFolder) -> str:
    files = run.statistics.get("files")
    rows = [["code", f"<code>{escape(str(run.config.get('snapshot', '?')))}</code>"],
            ["configuration", f"<code>{escape(str(run.config.get('train_digest', '?')))}</code>"]]
    rows += [[f"data: {escape(str(name))}", f"<code>{escape(str(md5))}</code>"]
             for name, md5 in (files.items() if isinstance(files, dict) else ())]
    rows += [[f"checkpoint: {escape(c.name)}", f"<code>{escape(c.digest)}</code>"]
             for c in run.story.checkpoints.values()]
    return _section("Digests", _table(["of", "MD5, or the name of the snapshot"], rows))


def _log(run: RunFolder) -> str:
    if not run.log_tail:
        return ""
    is_open = " open" if run.state in (RunState.FAILED, RunState.LOST) else ""
    return _section("Log", f"<details{is_open}><summary>the last lines of train.log</summary>"
                           f"<pre>{escape(run.log_tail)}</pre></details>")
