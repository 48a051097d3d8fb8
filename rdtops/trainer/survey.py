"""Dataset summary: a quick check of a folder of demonstrations.
`python -m rdtops.trainer.survey FOLDER SECONDS OBSERVED CODEC`.

Every file is opened and checked as in a training, without its images and digests, until the time is over. Prints one
JSON line: {"files", "looked_into", "episodes", "steps", "problem", "remedy", "statistics": {"why_not", "wrong", "odd",
"unread"}}. For the preflight check.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rdtops.errors import DataError
from rdtops.trainer.data import libero, slot_statistics
from rdtops.trainer.data.actions import codec


@dataclass
class Summary:
    """The summary. `problem`: the first error that would stop a training."""

    files: int = 0
    looked_into: int = 0
    episodes: int = 0
    steps: int = 0
    problem: str = ""
    remedy: str = ""


def summarise(folder: str | Path, limit_s: float, observed: str = libero.AUTO) -> Summary:
    paths = libero.hdf5_files(folder)
    seen, until_s = Summary(len(paths)), time.monotonic() + limit_s
    for path in paths:
        if time.monotonic() > until_s:
            break
        try:
            episodes = libero.episodes_of(path, path.relative_to(folder).as_posix(), observed)
        except DataError as error:
            seen.problem, seen.remedy = error.message, error.remedy
            break
        seen.looked_into += 1
        seen.episodes += len(episodes)
        seen.steps += sum(len(e.actions_T7) for e in episodes)
    return seen


def main() -> int:
    folder, limit_s, observed, codec_name = sys.argv[1:]
    seen = summarise(folder, float(limit_s), observed)
    found = slot_statistics.standing(folder, codec(codec_name))
    sys.stdout.write(json.dumps({**asdict(seen), "statistics": asdict(found)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
