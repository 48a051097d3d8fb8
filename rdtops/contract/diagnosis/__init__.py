"""Diagnosis: what ended a run, or slows it. A pure function of the evidence from its host.

The supervisor uses it to decide whether a restart can help, `inv why` shows it. Causes are named in `causes`.
"""

from __future__ import annotations

from rdtops.contract.diagnosis import ended, running
from rdtops.contract.diagnosis.evidence import Evidence
from rdtops.contract.diagnosis.messages import Line

__all__ = ["Diagnosis", "Evidence", "Line", "diagnose"]

from rdtops.contract.diagnosis.causes import Diagnosis


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the most specific cause that the evidence shows."""
    return running.diagnose(evidence) if evidence.alive else ended.diagnose(evidence)
