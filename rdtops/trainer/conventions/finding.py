"""Finding: whether one convention holds, and the numbers that show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any


class Verdict(str, Enum):
    """Whether a convention holds. UNKNOWN: these data do not show it, for instance because an axis never moves."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Finding:
    convention: str  # its name: `gripper sign`
    verdict: Verdict
    says: str
    evidence: str
    remedy: str = ""
    is_certain: bool = True  # False: inferred from a correlation, which may mislead
    name: str = ""  # its name in `trusted_conventions`; '' when it cannot be declared trusted
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict.value}


def holds(convention: str, says: str, evidence: str) -> Finding:
    return Finding(convention, Verdict.HOLDS, says, evidence)


def broken(convention: str, says: str, evidence: str, remedy: str) -> Finding:
    """Return a finding that is certain: no correct demonstration can look like this."""
    return Finding(convention, Verdict.BROKEN, says, evidence, remedy)


def doubtful(convention: str, says: str, evidence: str, remedy: str) -> Finding:
    """Return a finding that is inferred: broken as far as these data show."""
    return Finding(convention, Verdict.BROKEN, says, evidence, remedy, is_certain=False)


def unknown(convention: str, why: str, evidence: str = "") -> Finding:
    return Finding(convention, Verdict.UNKNOWN, f"cannot tell: {why}", evidence)


def merged(by_file: dict[str, list[Finding]]) -> list[Finding]:
    """Return one finding for each convention: every distinct fault with its files, else the one that holds,
    else the unknown one."""
    conventions = dict.fromkeys(f.convention for findings in by_file.values() for f in findings)
    return [one for convention in conventions for one in _of_convention(
        [replace(f, files=(file,)) for file, findings in by_file.items() for f in findings
         if f.convention == convention])]


def _of_convention(findings: list[Finding]) -> Iterable[Finding]:
    for verdict in (Verdict.BROKEN, Verdict.HOLDS, Verdict.UNKNOWN):
        those = [f for f in findings if f.verdict is verdict]
        if those:
            for says in dict.fromkeys(f.says for f in those) if verdict is Verdict.BROKEN else [those[0].says]:
                same = [f for f in those if f.says == says or verdict is not Verdict.BROKEN]
                yield replace(same[0], files=tuple(dict.fromkeys(name for f in same for name in f.files)))
            return
