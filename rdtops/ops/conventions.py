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

TIMEOUT_S = 90.0  # a hundred episodes from a slow network disk


def probe(connection: Connection, spec: RunSpec) -> Probe[dict[str, Any]]:
    train = spec.train
    arguments = [spec.assets["dataset"], "--codec", train.codec, "--observed", train.observed, "--images", train.images,
                 *(["--trusted", train.trusted_conventions] if train.trusted_conventions else [])]
    return Probe("conventions", program(connection.host, spec.release, "conventions", arguments), parse, TIMEOUT_S)


def parse(output: Output) -> dict[str, Any]:
    """What was looked at, and the findings; data that cannot be read are one. ValueError when the program did not run,
    which is no fault of the data."""
    try:
        answer = json.loads(output.out.strip().rpartition("\n")[2])
        return {"looked_at": str(answer["looked_at"]), "findings": list(answer["findings"])}
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError("the convention check did not run") from error


def findings(answer: Answer[dict[str, Any]], spec: RunSpec, is_deployed: bool) -> Iterator[CheckResult]:
    """FAIL for what is certainly broken; WARN for what is judged so, as a false alarm must not stop a training, and for
    a codec that is known to break things."""
    if not is_deployed:
        yield CheckResult.skip("conventions", "asked once this tree is deployed", spec.release)
    elif answer.value is None:
        yield CheckResult.warn("conventions", "cannot be checked", answer.problem,
                               f"inv logs --host {spec.host}   # the packages check says what is missing")
    else:
        broken = [f for f in answer.value["findings"] if f["verdict"] == "broken"]
        yield from (_broken(f, spec) for f in broken)
        if not broken:
            yield _sound(answer.value)


def _broken(found: dict[str, Any], spec: RunSpec) -> CheckResult:
    is_doubted = not found["is_certain"]
    where = f" in {', '.join(found['files'][:3])}" if found["files"] else ""
    trust = f"; or, if you know that it holds: --set trusted_conventions={found['name']}" if is_doubted else ""
    say = CheckResult.warn if is_doubted or spec.train.codec.startswith("seed_compat") else CheckResult.fail
    evidence = f"{found['evidence']}{where}; ".removeprefix("; ")
    return say("conventions", found["says"], f"{evidence}broken: {found['convention']}", found["remedy"] + trust)


def _sound(answer: dict[str, Any]) -> CheckResult:
    unknown = [f["convention"] for f in answer["findings"] if f["verdict"] == "cannot tell"]
    told = f"; cannot be told from these data: {'; '.join(unknown)}" if unknown else ""
    return CheckResult.ok("conventions", f"{len(answer['findings']) - len(unknown)} hold, {answer['looked_at']}{told}")
