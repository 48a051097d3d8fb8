"""Gallery: an evaluation for people: its rates, why it failed, and every trial with its video, failures first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.contract import outcomes
from rdtops.contract.outcomes import TrialOutcome, problem_of, trial_outcomes
from rdtops.contract.tally import Tally, number_words, tallies
from rdtops.hostlib import fields
from rdtops.pages.templating import address, html

_CHOICES = {outcomes.FAILURE: "failures only", outcomes.ERROR: "errors only", outcomes.SUCCESS: "successes only"}


@dataclass(frozen=True)
class Film:
    """A trial on a page. `source`: the address of its video; '' where there is none."""

    outcome: str
    words: str
    reason: str
    source: str

    @property
    def css_class(self) -> str:
        return self.outcome


@dataclass(frozen=True)
class FilmedTask:
    language: str
    films: tuple[Film, ...]


@dataclass(frozen=True)
class Gallery:
    tallies: tuple[Tally, ...]  # of each task, then of all
    problem: str  # why it failed; '' where it did not
    progress: str  # what is missing of the planned trials; '' of a whole evaluation
    protocol: str
    notes: tuple[str, ...]
    tasks: tuple[FilmedTask, ...]

    @classmethod
    def of(cls, report: Mapping[str, Any], source: Callable[[TrialOutcome], str], *, problem: str = "",
           only_videos: bool = False, others: Iterable[Film] = ()) -> Gallery:
        """Make it of a report.json. `only_videos`: leave out trials without a video; `others`: videos of no trial."""
        found = tuple(tallies(report, "all tasks"))
        reason = problem or problem_of(report)
        notes = [note for note in fields.words(report.get("notes")) if not reason or reason not in note]
        films = [(trial.task, _film(trial, source(trial))) for trial in trial_outcomes(report)]
        tasks = [FilmedTask(fields.text(row.get("language")) or "?",
                            tuple(film for name, film in films
                                  if name == fields.text(row.get("name")) and (film.source or not only_videos)))
                 for row in fields.rows(report.get("tasks"))]
        tasks.append(FilmedTask("other videos", tuple(others)))
        return cls(found, reason, _progress(report), _protocol(report), tuple(notes),
                   tuple(task for task in tasks if task.films))

    @property
    def total(self) -> Tally:
        return self.tallies[-1]

    @property
    def has_outcome(self) -> bool:
        return self.total.has_outcome

    @property
    def choices(self) -> dict[str, str]:
        """Return the switches of what is shown: value -> words. Without a script a style sheet obeys them."""
        counts = Counter(film.outcome for task in self.tasks for film in task.films)
        return {"all": f"all, failures first ({counts.total()})",
                **{value: f"{words} ({counts[value]})" for value, words in _CHOICES.items() if counts[value]}}


def evaluation_page(report: Mapping[str, Any]) -> str:
    """Return the page of a report.json; it lies beside videos/ and needs nothing else."""
    checkpoint, benchmark = (fields.table(report.get(table)).get(name)
                             for table, name in (("checkpoint", "name"), ("protocol", "benchmark")))
    gallery = Gallery.of(report, lambda trial: address(trial.video))
    total = gallery.total
    return html().get_template("evaluation.html").render(
        title=f"{fields.text(checkpoint) or '?'} on {fields.text(benchmark) or '?'}", gallery=gallery,
        facts={"success": total.rate_words, "trials that succeeded": total.counts_words,
               "95 % interval": total.interval_words, "steps to success": total.steps_words,
               "errors, in no rate": total.errors_words})


def _film(trial: TrialOutcome, source: str) -> Film:
    steps = {outcomes.SUCCESS: f" at step {trial.steps}", outcomes.FAILURE: f" after {trial.steps} steps"}
    words = f"{steps.get(trial.outcome, '')}, trial {trial.number}".lstrip(", ")
    return Film(trial.outcome, words, trial.reason, source)


def _progress(report: Mapping[str, Any]) -> str:
    """Return how many of the planned trials have ended, where it is not all of them."""
    planned, total = fields.whole(report.get("planned_trials")), fields.table(report.get("total"))
    ended = sum(fields.whole(total.get(name)) or 0 for name in ("trials", "errors"))
    return f"{ended} of {planned} planned trials have ended" if planned and 0 <= ended < planned else ""


def _protocol(report: Mapping[str, Any]) -> str:
    protocol, codec = fields.table(report.get("protocol")), fields.table(report.get("codec"))
    if not protocol:
        return ""
    steps, executed, predicted, seed = (number_words(protocol.get(name)) or "?" for name in (
        "max_steps", "exec_horizon", "pred_horizon", "seed"))
    return (f"At most {steps} steps; {executed} of {predicted} predicted actions executed; codec "
            f"{fields.text(codec.get('name')) or '?'}, seed {seed}. Errors of the simulator count in no rate.")
