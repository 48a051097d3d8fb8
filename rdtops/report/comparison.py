"""Comparison: a page about several runs: curves laid over each other, rates by task, and what differs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from rdtops import pages
from rdtops.contract.tally import Tally, tallies
from rdtops.errors import UsageError
from rdtops.hostlib import fields
from rdtops.report.chart import ChartLine, curves
from rdtops.report.folder import Evaluated, RunFolder
from rdtops.report.page import NAME, digests, gpu_words, peak_memory_words, success, task_words, useful_words
from rdtops.report.templates import TEMPLATES
from rdtops.runs.story import Points, Story, smoothed
from rdtops.views.words import duration, heldout_words

COLOURS: Final = ("loss", "heldout", "speed", "other")  # classes of the style sheet, one for each run
SHOWN = ("loss, running mean", "validation loss")  # charts that are not folded away
OF_THE_PROTOCOL = ("benchmark", "max_steps", "exec_horizon", "trials", "seed")


@dataclass(frozen=True)
class Compared:
    """One run of several. `name` tells it from the others, and so does `short`, on a phone."""

    run: RunFolder
    name: str
    short: str
    css_class: str
    link: str  # to its report, relative to the page


def write(runs: Sequence[RunFolder]) -> Path:
    """Write the page into the folder of the first run. Raises UsageError when there are not two to four runs."""
    roots = [run.root.resolve() for run in runs]
    if len(set(roots)) < len(roots):
        raise UsageError(f"{next(root for root in roots if roots.count(root) > 1).name} cannot be compared with itself",
                         remedy="inv report --compare RUN RUN   # two different ones")
    if not 2 <= len(runs) <= len(COLOURS):
        raise UsageError(f"two to {len(COLOURS)} runs can be compared, not {len(runs)}",
                         remedy="inv report --compare RUN RUN")
    others = "_".join(run.root.name for run in runs[1:])
    return pages.write(runs[0].root / Path(f"compare_{others}.html"), page(runs))


def page(runs: Sequence[RunFolder]) -> str:
    """Return the HTML; the same folders always give the same text."""
    compared = [_compared(run, runs, css_class) for run, css_class in zip(runs, COLOURS, strict=False)]
    drawn = _curves(compared)
    first = {title: drawn.pop(title) for title in SHOWN if title in drawn}
    return TEMPLATES.get_template("comparison.html").render(
        runs=compared, facts=list(_facts(runs)), curves=first, more=drawn, evaluations=list(_evaluations(compared)),
        by_task=_by_task(runs), caution=_caution(runs),
        settings=_different([run.train for run in runs]), inputs=_different([dict(digests(run)) for run in runs]))


def _compared(run: RunFolder, runs: Sequence[RunFolder], css_class: str) -> Compared:
    link = os.path.relpath(run.root / NAME, runs[0].root)
    name = f"{run.host} {run.run_id}" if len({one.host for one in runs}) > 1 else run.run_id
    ends = [one.run_id.rpartition("-")[2] for one in runs]
    short = run.run_id.rpartition("-")[2] if len(set(ends)) == len(ends) else name
    return Compared(run, name, short, css_class, link if (run.root / NAME).exists() else "")


def _facts(runs: Sequence[RunFolder]) -> Iterator[tuple[str, list[str]]]:
    """Yield what is worth comparing, with the words of each run."""
    rows: list[tuple[str, Callable[[RunFolder], str]]] = [
        ("success", lambda run: ", ".join(filter(None, success(run)))),
        ("state", lambda run: run.state.value),
        ("task", task_words),
        ("step", lambda run: f"{run.last_step:,} of {run.max_steps:,}"),
        ("loss, mean of the last", lambda run: f"{smoothed(run.story.loss)[-1][1]:.6f}" if run.story.loss else ""),
        ("validation loss, best", lambda run: heldout_words(_least(run.story.heldout))),
        ("samples/s", lambda run: f"{run.story.speed[-1][1]:.1f}" if run.story.speed else ""),
        ("useful arithmetic of a GPU", lambda run: useful_words(run.story)),
        ("from first to last event", lambda run: duration(run.trained_s)),
        ("trained on", gpu_words),
        ("load of the GPUs", lambda run: run.gpu_use.words.get("load", "")),
        ("peak memory", lambda run: peak_memory_words(run.story)),
        ("code revision", lambda run: pages.text(run.config.get("snapshot", "?"))),
        ("created", lambda run: pages.text(run.config.get("created_at", "?")))]
    for name, words_of in rows:
        words = [words_of(run) for run in runs]
        if any(words):
            yield name, words


def _least(points: Points) -> float | None:
    return min((value for _, value in points), default=None)


def _curves(compared: Sequence[Compared]) -> dict[str, Any]:
    """Return the charts by title, the curves of all runs in each."""
    charts: dict[str, Callable[[Story], Points]] = {
        "loss, running mean": lambda story: smoothed(story.loss), "validation loss": lambda story: story.heldout,
        "samples/s": lambda story: story.speed, "learning rate": lambda story: story.learning_rate,
        "gradient norm, running mean": lambda story: smoothed(story.grad_norm)}
    drawn = {title: curves([ChartLine(one.name, points(one.run.story), one.css_class, dots="validation" in title)
                            for one in compared], unit=title) for title, points in charts.items()}
    return {title: chart for title, chart in drawn.items() if chart}


def _evaluations(compared: Sequence[Compared]) -> Iterator[tuple[Compared, Evaluated]]:
    """Yield every evaluation, the best first."""
    found = [(one, evaluated) for one in compared for evaluated in one.run.evaluations]
    yield from sorted(found, key=lambda pair: -(pair[1].total.rate if pair[1].total.rate is not None else -1.0))


def _by_task(runs: Sequence[RunFolder]) -> dict[str, list[Tally | None]]:
    """Return by task the rates of each run's best evaluation; None where it has not tried that task."""
    found = [{tally.language: tally for tally in tallies(run.best_evaluation.report, "all tasks")}
             if run.best_evaluation else {} for run in runs]
    tasks = dict.fromkeys(language for tried in found for language in tried)
    return {task: [tried.get(task) for tried in found] for task in tasks} if sum(map(bool, found)) > 1 else {}


def _caution(runs: Sequence[RunFolder]) -> list[str]:
    """Return why a difference between the best rates may mean nothing."""
    best = [run.best_evaluation for run in runs if run.best_evaluation]
    differing = [name for name in OF_THE_PROTOCOL
                 if len({pages.text(fields.table(e.report.get("protocol")).get(name)) for e in best}) > 1]
    found = [f"The evaluations differ in {', '.join(differing)}: other tests, other rates."] if differing else []
    intervals = [e.total.interval for e in best if e.total.interval]
    if any(max(a[0], b[0]) <= min(a[1], b[1]) for a, b in combinations(intervals, 2)):
        found.append("The 95 % intervals of the best evaluations overlap: the difference may be chance.")
    return found


def _different(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the values that are not the same in all tables; '-' where one has none."""
    keys = dict.fromkeys(key for table in tables for key in table)
    found = {key: [pages.text(table.get(key, "-")) for table in tables] for key in keys}
    return {key: words for key, words in found.items() if len(set(words)) > 1}
