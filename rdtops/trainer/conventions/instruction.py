"""Instruction check: a sentence, not the name of a file or task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from rdtops.trainer.conventions.finding import Finding, doubtful, holds
from rdtops.trainer.data.libero import Episode

SENTENCE = "the instruction is a sentence"


def findings(episodes: Sequence[Episode]) -> list[Finding]:
    texts = dict.fromkeys(e.instruction for e in episodes)
    names = [t for t in texts if _is_name(t, episodes[0].file)]
    if names:
        return [doubtful(SENTENCE, "the instruction is a task's name", repr(names[0]),
                       "write language_instruction of problem_info as in the task's .bddl file")]
    return [holds(SENTENCE, "in words", "; ".join(texts))]


def _is_name(text: str, file: str) -> bool:
    return "_" in text or bool(re.search(r"\bSCENE\d", text)) or text == PurePosixPath(file).stem \
        or text.endswith((".bddl", ".hdf5", "_demo"))
