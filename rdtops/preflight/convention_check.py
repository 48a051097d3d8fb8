"""Convention check of `inv check`: runs rdtops.trainer.conventions of the deployed release on the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract.config import data_options
from rdtops.contract.run import RunSpec
from rdtops.hostlib.fields import loads
from rdtops.preflight.check import Answers, Check, Subject
from rdtops.preflight.python import in_release, with_variables
from rdtops.ssh.probe import Answer, Output, Probe

TIMEOUT_S = 90.0  # a hundred episodes from a slow network disk


def probes(subject: Subject) -> Iterable[Probe[Any]]:
    return [Probe("conventions", with_variables(subject) + _line(subject), parse, TIMEOUT_S)]


def parse(output: Output) -> dict[str, Any]:
    """Parse what was examined, and the findings; unreadable data are one. Raises ValueError when the program did not
    run, which is not an error of the data."""
    try:
        answer = loads(output.out.strip().rpartition("\n")[2])
        return {"looked_at": str(answer["looked_at"]), "findings": list(answer["findings"])}
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError("the convention check did not run") from error


def judge(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Yield FAIL for a convention that is certainly broken; WARN for a likely one, as a false alarm must not stop a
    training, and for a codec with known errors."""
    answer: Answer[dict[str, Any]] = answers["conventions"]
    if answers["release"].value != ["there"]:
        yield CheckResult.skip("conventions", "not checked: this tree is not deployed", subject.spec.release)
    elif answer.value is None:
        yield CheckResult.warn("conventions", "cannot be checked", answer.problem, subject.there(_line(subject)))
    else:
        broken = [f for f in answer.value["findings"] if f["verdict"] == "broken"]
        yield from (_broken(f, subject.spec) for f in broken)
        if not broken:
            yield _sound(answer.value)


def _line(subject: Subject) -> str:
    train, folder = subject.spec.train, subject.spec.assets["dataset"]
    trusted = ["--trusted", train.trusted_conventions] if train.trusted_conventions else []
    return in_release(subject, "-m", "rdtops.trainer.conventions", folder, "--codec", train.codec,
                      *data_options(train), *trusted, "--json")


def _broken(found: dict[str, Any], spec: RunSpec) -> CheckResult:
    is_doubted = not found["is_certain"]
    where = f" in {', '.join(found['files'][:3])}" if found["files"] else ""
    trust = f"; or, if the data are right: --set trusted_conventions={found['name']}" if is_doubted else ""
    evidence = f"{found['evidence']}{where}; ".removeprefix("; ") + f"broken: {found['convention']}"
    if is_doubted or spec.train.codec.startswith("seed_compat"):
        return CheckResult.warn("conventions", found["says"], evidence, found["remedy"] + trust)
    return CheckResult.fail("conventions", found["says"], evidence, found["remedy"])


def _sound(answer: dict[str, Any]) -> CheckResult:
    unknown = [f["convention"] for f in answer["findings"] if f["verdict"] == "cannot tell"]
    unclear = f"; not decidable from these data: {'; '.join(unknown)}" if unknown else ""
    known = len(answer["findings"]) - len(unknown)
    return CheckResult.ok("conventions", f"{known} hold, {answer['looked_at']}{unclear}")


CHECKS = (Check("assets", judge, probes),)
