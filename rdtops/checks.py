"""Checks: the result of a preflight check, and the report of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """OK: passed. WARN: training can start. FAIL: training must not start. SKIP: could not be checked."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: `summary` is one line, `evidence` the output it is based on, `remedy` a command to
    paste."""

    name: str
    status: Status
    summary: str
    evidence: str = ""
    remedy: str = ""
    source: str = ""  # the plugin that returned it; filled in by the registry
    group: str = ""  # its topic; for a plugin's result the plugin's name

    @classmethod
    def ok(cls, name: str, summary: str, evidence: str = "") -> CheckResult:
        return cls(name, Status.OK, summary, evidence)

    @classmethod
    def warn(cls, name: str, summary: str, evidence: str = "", remedy: str = "") -> CheckResult:
        return cls(name, Status.WARN, summary, evidence, remedy)

    @classmethod
    def fail(cls, name: str, summary: str, evidence: str = "", remedy: str = "") -> CheckResult:
        return cls(name, Status.FAIL, summary, evidence, remedy)

    @classmethod
    def skip(cls, name: str, summary: str, evidence: str = "") -> CheckResult:
        return cls(name, Status.SKIP, summary, evidence)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "status": self.status.value}


@dataclass(frozen=True)
class Report:
    """All check results of one host. A report without any check has failed."""

    host: str
    results: tuple[CheckResult, ...]
    plugins: tuple[str, ...] = field(default=())  # the plugins that were asked, whether or not they returned a result
    probe_seconds: Mapping[str, float] = field(default_factory=dict)  # how long each probe took on the host

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        return tuple(r for r in self.results if r.status is Status.FAIL)

    @property
    def passed(self) -> bool:
        return bool(self.results) and not self.failures

    def count(self, status: Status) -> int:
        return sum(r.status is status for r in self.results)

    def to_json(self) -> dict[str, Any]:
        return {"host": self.host, "passed": self.passed, "plugins": list(self.plugins),
                "probe_seconds": dict(self.probe_seconds),
                "results": [result.to_json() for result in self.results]}
