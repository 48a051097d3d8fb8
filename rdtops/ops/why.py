"""Why: what ended a run, or slows it. One question to its host; the meaning is rdtops.contract.diagnosis's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rdtops.contract import diagnosis
from rdtops.contract.diagnosis import Diagnosis, Evidence
from rdtops.ops import runs
from rdtops.remote.connection import Connection
from rdtops.supervisor import evidence_on_host


@dataclass(frozen=True)
class Why:
    """A run's diagnosis, and how each attempt of its last launch ended."""

    run_id: str
    host: str
    diagnosis: Diagnosis
    attempts: tuple[Mapping[str, Any], ...]  # attempt, exit_code, cause, summary, restart_in_s

    @property
    def passed(self) -> bool:
        return self.diagnosis.passed

    def to_json(self) -> dict[str, Any]:
        found = asdict(self.diagnosis)
        return {"run_id": self.run_id, "host": self.host, "well": self.passed, **found,
                "lines": [str(line) for line in self.diagnosis.lines], "attempts": list(self.attempts)}


def ask(connection: Connection, run_id: str = "") -> Why:
    """`run_id` as in runs.find. Raises RunError when there is no such run."""
    answer = connection.call(evidence_on_host, {"workspace": connection.workspace, "wanted": run_id}, timeout_s=90.0)
    host = connection.host.name
    name = runs.choose(host, connection.workspace, answer["names"], run_id)  # raises where it is not one
    found = diagnosis.diagnose(Evidence.of(host, answer["facts"]))
    return Why(name, host, found, tuple(answer["attempts"]))
