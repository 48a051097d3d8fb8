"""Verify or compute the statistics of a dataset: `python -m rdtops.trainer.statistics DATASET`.

DATASET/statistics.json is kept if it belongs to the data and the codec, and recomputed if not; `inv stats` runs this
here or on a host.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rdtops.errors import RdtopsError
from rdtops.trainer.data.actions import CODECS, codec
from rdtops.trainer.data.declaration import add_options, from_options
from rdtops.trainer.data.slot_statistics import NAME, Verified, verify
from rdtops.trainer.loop import failures


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Exit code 1 when the statistics are implausible; --json prints the result as JSON."""
    options = _parser().parse_args(arguments)
    try:
        found = verify(options.dataset, options.out or Path(options.dataset) / NAME, codec(options.codec),
                       from_options(options), anew=options.recompute)
    except (RdtopsError, OSError) as error:
        return failures.complain(error)
    sys.stdout.write(json.dumps(found.to_json()) + "\n" if options.json else _words(found))
    return int(not found.is_sound and not options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.statistics", description=__doc__)
    parser.add_argument("dataset", help="folder with *.hdf5 files, any depth")
    parser.add_argument("--out", default="", help=f"the file; default: {NAME} beside the data, which training reads")
    parser.add_argument("--codec", default="delta_velocity", choices=sorted(CODECS))
    add_options(parser)
    parser.add_argument("--recompute", action="store_true", help="recompute even if the data have not changed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _words(found: Verified) -> str:
    numbers = found.statistics
    data = f"{len(numbers['files'])} files, {numbers['episodes']} episodes, {numbers['steps']} steps"
    lines = [f"{data}, codec {numbers['codec']} -> {found.path}"]
    lines.append(f"computed: {found.why}" if found.why else
                 "up to date: the MD5 of every file and the codec are unchanged")
    if found.why and not found.is_written:
        lines.append("it could not be written; training computes its own")
    lines += [f"{'WRONG' if u.is_wrong else 'odd'}: {u.kind}, {u.slot}: {u.says}" for u in found.implausible]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
