"""The command of the convention check: `python -m rdtops.trainer.conventions DATASET [--codec NAME] [--simulator]`.

Exit code 1 when a convention is broken, certainly or as far as the data show.
"""

from __future__ import annotations

import argparse
import json
import sys

from rdtops.contract.config import trusted
from rdtops.errors import DataError, RdtopsError
from rdtops.trainer.conventions import EPISODES, Finding, Verdict, check, playback
from rdtops.trainer.conventions.finding import broken
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import CODECS, Codec, codec
from rdtops.trainer.data.declaration import add_options, from_options
from rdtops.trainer.loop import failures
from rdtops.trainer.simulation import simulator

_SIGNS = {Verdict.HOLDS: "ok    ", Verdict.BROKEN: "BROKEN", Verdict.UNKNOWN: "?     "}
READABLE = "the data can be read"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        looked_at, found = _findings(options, codec(options.codec))
    except (RdtopsError, OSError) as error:
        return failures.complain(error)
    if options.json:
        sys.stdout.write(json.dumps({"looked_at": looked_at, "findings": [f.to_json() for f in found]}) + "\n")
    else:
        sys.stdout.write("".join(map(_lines, found)) + f"checked {looked_at}\n" + _not_played(options.simulator))
    return int(any(f.verdict is Verdict.BROKEN for f in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.conventions",
                                     description="Check that dataset and codec follow the training's conventions.")
    parser.add_argument("dataset", help="folder with *.hdf5 files, any depth")
    parser.add_argument("--codec", default="delta_velocity", choices=sorted(CODECS))
    add_options(parser)
    parser.add_argument("--trusted", default="", metavar="NAMES",
                        help="conventions that you know to hold, separated by commas")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"episodes to check; default: {EPISODES}")
    parser.add_argument("--simulator", action="store_true",
                        help=f"also replay {playback.EPISODES} of them in LIBERO's simulator; needs the extra `eval`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _findings(options: argparse.Namespace, using: Codec) -> tuple[str, list[Finding]]:
    """Return what was checked, and the findings. Data that cannot be read are a finding."""
    names = trusted(options.trusted)
    if options.simulator:
        simulator.require()  # fail at once, not after the other checks
    try:
        dataset = libero.sample(options.dataset, max(options.episodes, 1), from_options(options))
        found = check(dataset, using, trusted=names)
    except DataError as error:
        return "the readable part", [broken(READABLE, error.message, "", error.remedy)]
    if options.simulator:
        played = libero.spread(dataset.episodes, playback.EPISODES)
        found += playback.findings(options.dataset, played, using)
    return f"{len(dataset.episodes)} episodes in {len(dataset.images)} files", found


def _lines(found: Finding) -> str:
    says = [f"{_SIGNS[found.verdict]}  {found.convention}: {found.says}"]
    if found.evidence:
        says.append(f"        {found.evidence}")
    if found.verdict is Verdict.BROKEN:
        says += [f"        in {', '.join(found.files)}"] if found.files else []
        says += [f"        -> {found.remedy}"] if found.remedy else []
        says += [f"        -> or, if you know better: --trusted {found.name}   # --set trusted_conventions={found.name}"
                 ] if found.name and not found.is_certain else []
    return "\n".join(says) + "\n"


def _not_played(was_played: bool) -> str:
    return "" if was_played else \
        "nothing was replayed in the simulator, only the arm's kinematics were used: --simulator replays the actions\n"


if __name__ == "__main__":
    sys.exit(main())
