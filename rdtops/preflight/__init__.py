"""Preflight: the checks that need no plugin. All their probes travel in one call, with those of the plugins.

Parsers and judges are pure; an unreadable answer is a finding that quotes it. Nothing is changed on the host.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rdtops.checks import CheckResult, Status
from rdtops.contract.run import RunSpec
from rdtops.preflight import assets, convention_check, launch_checks, machine, network, python, resume_check
from rdtops.preflight.check import Answers, Check, Subject
from rdtops.runs import launchers
from rdtops.ssh.connection import Connection
from rdtops.ssh.probe import ask

CHECKS: Sequence[Check] = (*machine.CHECKS, *python.CHECKS, *assets.CHECKS, *resume_check.CHECKS,
                           *convention_check.CHECKS, *network.CHECKS, *launch_checks.CHECKS)


def core_checks(connection: Connection, spec: RunSpec, local: Mapping[str, Path] | None = None, *,
                resumes: bool = False, fresh: bool = False) -> list[CheckResult]:
    """Return every finding about what `spec` needs on the host. `local`: role -> folder of the same assets here."""
    return _findings(connection, Subject(connection.host, spec, local or {}, resumes, fresh), CHECKS)


def resume_checks(connection: Connection, spec: RunSpec) -> list[CheckResult]:
    """Return how what a resume finds on the host differs from what its checkpoint was trained on."""
    return _findings(connection, Subject(connection.host, spec, resumes=True), resume_check.CHECKS)


def _findings(connection: Connection, subject: Subject, checks: Sequence[Check]) -> list[CheckResult]:
    begun_s = time.time()
    found = ask(connection, [probe for check in checks for probe in check.probes(subject)])
    answers = Answers(found, begun_s, time.time())
    is_local = launchers.traits(subject.host).is_local
    return [replace(_moved(result) if check.of_the_trainer and not is_local else result, group=check.group)
            for check in checks for result in check.judge(subject, answers)]


def _moved(result: CheckResult) -> CheckResult:
    """Skip a finding about a login node: it does not apply to the compute nodes, which the plugin of their scheduler
    checks."""
    return replace(result, status=Status.SKIP, summary="not checked: the login node does not train",
                   evidence=result.summary, remedy="")
