"""Dataset summary: a quick check of a folder of demonstrations.
`python -m rdtops.trainer.survey FOLDER SECONDS CODEC [--observed ... --images ... --instruction ... --without ...]`.

Every file is opened and checked as in a training, with one of its images and without its digest, until the time is
over. Prints one JSON line: {"files", "looked_into", "episodes", "steps", "problem", "remedy", "without", "wrong_files":
{name: [bytes, MD5]}, "read_as", "slow", "statistics": {"why_not", "wrong", "odd", "unread"}}. For the preflight check.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rdtops.errors import DataError
from rdtops.hostlib import digests
from rdtops.trainer.data import libero, slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.declaration import add_options, from_options
from rdtops.trainer.data.episodes import UNPACK

_DIGESTED = 5  # wrong files whose MD5 is told, for the comparison with other copies


@dataclass
class Summary:
    """The summary. `problem`: what would stop a training, with all that is wrong."""

    files: int = 0
    looked_into: int = 0
    episodes: int = 0
    steps: int = 0
    problem: str = ""
    remedy: str = ""
    without: list[str] = field(default_factory=list)  # what can be left out, so that the rest is trained on
    wrong_files: dict[str, tuple[int, str]] = field(default_factory=dict)  # bytes and MD5, '' where that takes long
    read_as: tuple[str, ...] = ()
    slow: str = ""  # why images are read slowly


def summarise(folder: str | Path, limit_s: float, declared: libero.Declared = libero.FOUND_OUT) -> Summary:
    until_s = time.monotonic() + limit_s
    try:
        seen = libero.look(folder, limit_s, declared)
    except DataError as error:
        return Summary(problem=error.message, remedy=error.remedy)
    found = Summary(seen.files, seen.looked_into, seen.episodes, seen.steps, read_as=seen.read_as, slow=seen.slow)
    if seen.slow:
        found.remedy = UNPACK
    if seen.problems:
        refused = libero.refusal(seen.problems, declared, is_rest=False)
        found.problem, found.remedy = refused.message, refused.remedy
        found.without = libero.to_leave_out(seen.problems, declared) if seen.episodes else []
        names = dict.fromkeys(one.name for one in seen.problems if ":" not in one.name)
        found.wrong_files = {name: _state(Path(folder) / name, until_s) for name in list(names)[:_DIGESTED]}
    return found


def _state(path: Path, until_s: float) -> tuple[int, str]:
    """Return the size of a file, and its MD5 where that is known or there is time to read it."""
    with contextlib.suppress(OSError):
        size, known = path.stat().st_size, digests.known([path])
        if path not in known and time.monotonic() < until_s:
            known = digests.remembered([path])
        return size, known.get(path, "")
    return 0, ""


def main() -> int:
    options = _parser().parse_args()
    seen = summarise(options.folder, options.seconds, from_options(options))
    found = slot_statistics.standing(options.folder, codec(options.codec), from_options(options))
    sys.stdout.write(json.dumps({**asdict(seen), "statistics": asdict(found)}) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.survey")
    parser.add_argument("folder")
    parser.add_argument("seconds", type=float)
    parser.add_argument("codec")
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
