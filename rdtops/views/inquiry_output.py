"""Inquiry output: answers of replay, normfit and stats about data and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from rdtops.checks import Status
from rdtops.runs.inquiries import NormFitted, Replayed, Stats
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import SIGNS, grid_of, table_of


@dataclass(frozen=True)
class ReplayOutput(WorkflowOutput):
    replayed: Replayed

    def __rich__(self) -> RenderableType:
        found = self.replayed.values
        table = table_of(f"step {found['step']} of {found['run_id']} on {self.replayed.host}, with the weights of "
                         f"{found['weights']}", "number", "rank", "loss", "timestep", "file", "episode",
                         "observation")
        for s in found["samples"]:
            table.add_row(str(s["number"]), str(s["rank"]), f"{s['loss']:.6f}", str(s["timestep"]), str(s["file"]),
                          str(s["episode"]), str(s["observation"]))
        words = {"loss of the step": repr(found["loss"]), "in the Journal": _recorded_loss(found)}
        return Group(table, grid_of(words), *(styled("{}", note) for note in found["notes"]))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"host": self.replayed.host, **self.replayed.values}]


def _recorded_loss(found: Mapping[str, Any]) -> str:
    recorded = found["recorded"]
    if recorded is None:
        return "nothing about this step"
    of = ("" if recorded["first_step"] == recorded["last_step"]
          else f", the mean of the steps {recorded['first_step']} to {recorded['last_step']}")
    other = f"; not comparable, these weights were trained up to step {found['weights_step']}"
    return f"{recorded['loss']!r}{of}{'' if found['is_exact'] else other}"


@dataclass(frozen=True)
class NormfitOutput(WorkflowOutput):
    fitted: NormFitted

    def __rich__(self) -> RenderableType:
        found = self.fitted.values
        losses = {norm: f"loss {loss:.6f}" for norm, loss in found["loss"].items()}
        margin = (f"{found['margin']:.6f} +- {found['standard_error']:.6f} over {found['samples']} samples, "
                  f"{found['certainty']:.1f} standard errors")
        verdict = (styled("[yellow]not enough samples to decide; give more with --samples[/]") if not found["winner"]
                   else styled("[green]config.json says {}, as it should[/]", found["stated"])
                   if found["winner"] == found["stated"]
                   else styled('[bold red]config.json says {}: set "norm": "{}" in it[/]', found["stated"],
                               found["winner"]))
        return Group(styled("[bold]{}:{}[/]", self.fitted.host, self.fitted.pretrained),
                     grid_of({**losses, "better": found["better"], "by": margin}), verdict)

    def to_json(self) -> list[dict[str, Any]]:
        return [{"host": self.fitted.host, **self.fitted.values}]


@dataclass(frozen=True)
class StatsOutput(WorkflowOutput):
    stats: Stats

    @property
    def exit_code(self) -> int:
        return 0 if self.stats.passed else 1

    def __rich__(self) -> RenderableType:
        found = self.stats.values
        written = "" if found["is_written"] else styled("; [yellow]could not be saved on the host[/]")
        state = (styled("computed: {}{}", found["why"], written) if found["why"]
                 else "no recomputation is needed: the MD5 of every file is unchanged, and so is the codec")
        words = {"data": f"{len(found['files'])} files, {found['episodes']} episodes, {found['steps']} steps, "
                         f"observations {' and '.join(found['observed'])} the action",
                 "codec": found["codec"], "file": found["path"]}
        findings = [styled("{} {}, {}: {}", SIGNS[Status.FAIL if u["is_wrong"] else Status.WARN], u["kind"], u["slot"],
                           u["says"]) for u in found["unsound"]]
        verdict = "[green]plausible[/]" if self.stats.passed else "[bold red]implausible[/]"
        return Group(styled("[bold]statistics on {}[/]", self.stats.host), grid_of(words), *findings,
                     styled(verdict + "; {}", state))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"host": self.stats.host, **self.stats.values}]
