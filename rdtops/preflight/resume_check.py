"""Resume check: do data and encoders on the host have the content that the newest checkpoint was trained on? The
training asks the same before its first step and refuses what differs; here it is said before the launch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract.config import TrainConfig, accepted_roles
from rdtops.hostlib import provenance
from rdtops.hostlib.fields import loads, table, text, whole, words
from rdtops.on_host import asset_comparer
from rdtops.preflight.check import Answers, Check, Subject, last_line
from rdtops.ssh.probe import Answer, Output, Probe, program_probe

LIMIT_BYTES = 2_000_000_000  # to read for the check; a deploy knows the digests of what it sent
TIMEOUT_S = 90.0


@dataclass(frozen=True)
class ComparedAssets:
    """The answer of rdtops.on_host.asset_comparer."""

    checkpoint: str
    step: int
    recorded: bool
    differences: Mapping[str, str]  # part -> words
    unread: Mapping[str, int]  # part -> bytes
    absent: Sequence[str]
    compared: Sequence[str]  # parts of which every file was
    settings: Sequence[str]  # `max_steps 150 -> 300`
    problem: str


def probes(subject: Subject) -> Iterable[Probe[Any]]:
    if not subject.resumes:
        return []
    spec = subject.spec
    request = {"checkpoints": str(spec.paths.checkpoints), "assets": dict(spec.assets),
               "settings": spec.train.to_json(), "limit_bytes": LIMIT_BYTES}
    return [program_probe("resume", subject.host, asset_comparer, request, parse, TIMEOUT_S)]


def parse(output: Output) -> ComparedAssets:
    answer = table(loads(last_line(output)))
    step = whole(answer.get("step"))
    if step is None or not isinstance(answer.get("recorded"), bool):
        raise ValueError("unexpected answer")
    known = set(provenance.ROLES)
    return ComparedAssets(
        text(answer.get("checkpoint")), step, answer["recorded"],
        {part: text(says) for part, says in table(answer.get("differences")).items() if part in known},
        {part: whole(size) or 0 for part, size in table(answer.get("unread")).items() if part in known},
        [part for part in words(answer.get("absent")) if part in known], words(answer.get("compared")),
        [f"{key} {_shown(before)} -> {_shown(now)}" for key, before, now in _triples(answer.get("settings"))],
        text(answer.get("problem")))


def judge(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    if not subject.resumes:
        return
    answer: Answer[ComparedAssets] = answers["resume"]
    found = answer.value
    if found is None or found.problem:
        yield CheckResult.warn("resume", "not compared with the checkpoint; the training does it before its first step",
                               found.problem if found else answer.problem)
    elif not found.checkpoint:
        yield CheckResult.ok("resume", "no checkpoint yet: the training begins anew")
    else:
        yield _compared(found, subject)


def _compared(found: ComparedAssets, subject: Subject) -> CheckResult:
    spec, changed = subject.spec, f"; changed: {', '.join(found.settings)}" if found.settings else ""
    if not found.recorded:
        return CheckResult.warn("resume", f"{found.checkpoint} does not say which data and encoders it was trained "
                                          f"with, so they cannot be compared{changed}")
    meant = accepted_roles(spec.train.accept_changed)
    held = {part: says for part, says in found.differences.items() if part in provenance.HELD}
    refused = {part: says for part, says in held.items() if provenance.ROLES[part] not in meant}
    notes = _notes(found, spec.train)
    if refused:
        return CheckResult.fail(
            "resume", f"{found.checkpoint} was trained on other files than those there: "
                      f"{provenance.words(refused, spec.train)}{changed}", notes,
            f"inv train --host {spec.host} --resume {spec.run_id} {provenance.consent(refused, spec.train)}")
    if held:
        return CheckResult.warn("resume", f"goes on from step {found.step} with other files, as --set says: "
                                          f"{provenance.words(held, spec.train)}{changed}", notes)
    same = "the same data, encoders and weights" if _has_same_weights(found) else "the same data and encoders"
    return CheckResult.ok("resume", f"{same} as at step {found.step}{changed}{notes and '; '}{notes}")


def _has_same_weights(found: ComparedAssets) -> bool:
    return provenance.PRETRAINED in found.compared and provenance.PRETRAINED not in found.differences


def _notes(found: ComparedAssets, train: TrainConfig) -> str:
    """Return what was not compared, and that the pretrained weights have changed, which a resume does not read."""
    notes = [f"{part}: {size / 1e9:.1f} GB not read yet, the training compares them" for part, size
             in found.unread.items() if part in provenance.HELD]
    notes += [f"{part}: not on the host yet" for part in found.absent if part in provenance.HELD]
    if weights := found.differences.get(provenance.PRETRAINED):
        notes.append(f"pretrained {train.pretrained}, which only a new training reads: {weights}")
    return "; ".join(notes)


def _shown(value: object) -> str:
    return "none" if value in ("", None) else str(value)


def _triples(value: object) -> Iterator[tuple[object, object, object]]:
    for row in value if isinstance(value, list) else []:
        if isinstance(row, list) and len(row) == 3:
            yield row[0], row[1], row[2]


CHECKS = (Check("assets", judge, probes),)
