"""Endings: the last lines of trainings that ended, each with the right cause. Recorded where the program runs here.

A file has a header of `key: value` lines, an empty line, then the log. Keys: `cause`, `restart` (whether one may help),
`exit` (the exit code, or none), `source` (recorded, or after the text of which program), `journal` (an event, once per
event), `facts` (what else the host reports; see rdtops.supervisor.evidence_on_host), `noise` (how many lines of the log
come before the end: what programs print in every training).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdtops.contract.config import preset
from rdtops.contract.diagnosis import Diagnosis, Evidence, diagnose
from rdtops.contract.run import RunSpec
from rdtops.hostlib.names import RunId
from rdtops.ui.repository import ROOT

FOLDER = ROOT / "tests" / "contract" / "data" / "endings"
SPEC = RunSpec(RunId("20261128-140246-rdt-4b4b"), "gpu07", "", "/data/rdt", "/data/rdt/releases/3f2a", "3f2a", {},
               preset("rdt_1b"))
WELL = {  # a host that reports nothing else
    "run_id": SPEC.run_id, "config": SPEC.to_json(), "alive": False, "launched": True, "stop_requested": False,
    "same_boot": True, "oom_kills": 0, "disk_free_bytes": 10**12, "disk_free_inodes": 10**6, "gpus": [],
    "gpu_problem": "", "ranks": [], "now_s": 2000.0, "ended_by": None}


@dataclass(frozen=True)
class Ending:
    name: str
    cause: str
    restart: bool
    exit_code: int | None
    source: str
    journal: tuple[str, ...]
    facts: dict[str, Any]
    noise: tuple[str, ...]
    end: tuple[str, ...]

    def diagnosis(self, log: Sequence[str] = ()) -> Diagnosis:
        """Return what this ending, or the same one with another log, is taken for."""
        kernel = [(0, line) for line in self.facts.get("kernel", ())]
        return diagnose(Evidence.of(SPEC.host, {
            **WELL, **self.facts, "kernel": kernel, "exit_code": self.exit_code,
            "journal": list(enumerate(self.journal, 1)),
            "log": list(enumerate(log or (*self.noise, *self.end), 1))}))


@dataclass(frozen=True)
class Confusion:
    """How often endings of one cause were diagnosed as one cause."""

    right: str
    diagnosed: str
    endings: int
    forbids_wrongly: int  # of them, those whose restart was forbidden though it may help

    @property
    def passed(self) -> bool:
        return self.right == self.diagnosed and not self.forbids_wrongly


def read(folder: Path = FOLDER) -> list[Ending]:
    """Return the endings, by name."""
    return [_parsed(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]


def confusion(endings: Iterable[Ending]) -> list[Confusion]:
    """Return the confusion table: a row for each right cause and what it was taken for."""
    found = [(ending, ending.diagnosis()) for ending in endings]
    counts = Counter((ending.cause, diagnosis.cause) for ending, diagnosis in found)
    forbidden = Counter((ending.cause, diagnosis.cause) for ending, diagnosis in found
                        if ending.restart and not diagnosis.restart)
    return [Confusion(*pair, count, forbidden[pair]) for pair, count in sorted(counts.items())]


def _parsed(name: str, text: str) -> Ending:
    head, _, log = text.partition("\n\n")
    pairs = [line.partition(": ")[::2] for line in head.splitlines()]
    only = dict(pairs)
    journal = [json.loads(value) for key, value in pairs if key == "journal"]
    lines = log.splitlines()
    count = int(only["noise"])
    return Ending(name, only["cause"], only["restart"] == "yes",
                  None if only["exit"] == "none" else int(only["exit"]), only["source"],
                  tuple(json.dumps({"time_s": 1000.0 + n, **event}) for n, event in enumerate(journal)),
                  json.loads(only.get("facts", "{}")), tuple(lines[:count]), tuple(lines[count:]))
