"""The convention check as part of `inv check`: rdtops.trainer.conventions, asked on the host with the release there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract.run import RunSpec
from rdtops.ops.inquiry import program
from rdtops.remote.connection import Connection
from rdtops.remote.probe import Answer, Output, Probe

TIMEOUT_S = 180.0  # the MD5 of gigabytes, read for the first time


def probe(connection: Connection, spec: RunSpec) -> Probe[list[dict[str, Any]]]:
    train = spec.train
    arguments = [spec.assets["dataset"], "--codec", train.codec, "--observed", train.observed, "--images", train.images]
    return Probe("conventions", program(connection.host, spec.release, "conventions", arguments), parse, TIMEOUT_S)


def parse(output: Output) -> list[dict[str, Any]]:
    """The findings; a dataset that cannot be read is one of them. ValueError when the program did not run."""
    if output.code == 0:
        findings: list[dict[str, Any]] = json.loads(output.out.strip().rpartition("\n")[2])
        return findings
    said = output.err.strip()
    if "Traceback" in said or "No module named" in said or not said:
        raise ValueError("the convention check did not run")
    says, _, remedy = said.partition("\nnext: ")
    return [{"convention": "the data can be read", "verdict": "broken", "says": says, "evidence": "", "remedy": remedy,
             "files": []}]


def findings(answer: Answer[list[dict[str, Any]]], spec: RunSpec, is_deployed: bool) -> Iterator[CheckResult]:
    """FAIL for each broken convention; WARN when the codec is one that is known to break them."""
    if not is_deployed:
        yield CheckResult.skip("conventions", "asked once this tree is deployed", spec.release)
    elif answer.value is None:
        yield CheckResult.warn("conventions", "cannot be checked", answer.problem,
                               f"inv logs --host {spec.host}   # the packages check says what is missing")
    else:
        broken = [f for f in answer.value if f["verdict"] == "broken"]
        say = CheckResult.warn if spec.train.codec.startswith("seed_compat") else CheckResult.fail
        for f in broken:
            where = f" in {', '.join(f['files'][:3])}" if f["files"] else ""
            yield say("conventions", f["says"], f"{f['evidence']}{where}; broken: {f['convention']}", f["remedy"])
        if not broken:
            unknown = [f["convention"] for f in answer.value if f["verdict"] == "cannot tell"]
            held = len(answer.value) - len(unknown)
            yield CheckResult.ok("conventions", f"{held} hold" + (
                f", {len(unknown)} cannot be told from these data: {'; '.join(unknown)}" if unknown else ""))
