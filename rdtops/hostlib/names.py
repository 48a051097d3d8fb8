"""Names: parsers for names that come from another machine. Each type below is one component of a path, or a path below
a folder, of a known format. No other text of a host is ever joined to a path (tests/paths_rule.py, a plugin of mypy,
enforces that). Standard library, Python 3.8."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NewType

RunId = NewType("RunId", str)  # 20261124-101530-tiny-3fa9
CheckpointName = NewType("CheckpointName", str)  # step_002000
EvaluationName = NewType("EvaluationName", str)  # step_002000-libero_90-1f3a9c20
RelativePath = NewType("RelativePath", str)  # checkpoints/step_002000/model.safetensors: stays below its folder

LONGEST = 255  # bytes of a component, on every file system that matters
_RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9_-]{1,150}-[0-9a-f]{4}")
_CHECKPOINT = re.compile(r"step_\d{1,12}")
_EVALUATION = re.compile(r"[^./\s][^/]*-[a-z0-9_]+-[0-9a-f]{8}")
_MACHINE = re.compile(r"\w{1,32}", re.ASCII)
_PYTHON = re.compile(r"3\.\d{1,3}", re.ASCII)
_MD5 = re.compile(r"[0-9a-f]{32}")


class BadName(ValueError):
    """A text that is not a name of that kind; the message quotes it, escaped."""


def run_id(word: object) -> RunId:
    """Parse a run id. Raise BadName."""
    return RunId(_matched(_RUN_ID, word, "a run id"))


def is_run_id(word: object) -> bool:
    return isinstance(word, str) and bool(_RUN_ID.fullmatch(word))


def checkpoint_name(word: object) -> CheckpointName:
    """Parse the name of a checkpoint. Raise BadName."""
    return CheckpointName(_matched(_CHECKPOINT, word, "the name of a checkpoint"))


def step_of(name: CheckpointName) -> int:
    return int(name.partition("_")[2])


def evaluation_name(word: object) -> EvaluationName:
    """Parse the name of an evaluation. Raise BadName."""
    return EvaluationName(component(_matched(_EVALUATION, word, "the name of an evaluation")))


def digest(word: object) -> str:
    """Parse an MD5 sum. Raise BadName."""
    return _matched(_MD5, word, "an MD5 sum")


def machine(word: object) -> str:
    """Parse an architecture, as `uname -m` prints it: x86_64. Raise BadName."""
    return _matched(_MACHINE, word, "the architecture of a machine")


def python_version(word: object) -> str:
    """Parse a version of Python: 3.11. Raise BadName."""
    return _matched(_PYTHON, word, "a version of Python")


def component(word: object) -> RelativePath:
    """Parse one component of a path, of any name. Raise BadName."""
    if not isinstance(word, str) or "/" in word:
        raise BadName(f"{quoted(word)} is not the name of a file")
    return relative_path(word)


def relative_path(word: object) -> RelativePath:
    """Parse a path that stays below its folder. Raise BadName."""
    steps = word.split("/") if isinstance(word, str) else [""]
    if "\0" in steps[-1] or any(step in ("", ".", "..") or "\0" in step or _size(step) > LONGEST for step in steps):
        raise BadName(f"{quoted(word)} is not a path below a folder")
    return RelativePath("/".join(steps))


def fits(parse: Callable[[object], str], word: object) -> bool:
    """Return whether `parse` accepts a word."""
    try:
        parse(word)
    except BadName:
        return False
    return True


def quoted(word: object, limit: int = 80) -> str:
    """Quote any value for a message: escaped, and not longer than a line."""
    escaped = ascii(word) if not isinstance(word, str) else ascii(word[:limit + 1])
    return escaped if len(escaped) <= limit + 2 else escaped[:limit] + "..."


def _size(step: str) -> int:
    """Return the bytes of a component on the disk; LONGEST + 1 for one that cannot be encoded."""
    try:
        return len(step.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return LONGEST + 1


def _matched(form: re.Pattern[str], word: object, kind: str) -> str:
    if not isinstance(word, str) or len(word) > LONGEST or not form.fullmatch(word):
        raise BadName(f"{quoted(word)} is not {kind}")
    return word
