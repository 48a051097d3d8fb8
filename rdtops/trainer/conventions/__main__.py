"""`python -m rdtops.trainer.conventions DATASET [--codec NAME] [--json]`.

Exit code 1 when a convention is broken; with --json the answer is the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys

from rdtops.contract.config import CHOICES
from rdtops.errors import RdtopsError
from rdtops.trainer import libero
from rdtops.trainer.actions import CODECS, codec
from rdtops.trainer.conventions import Finding, Verdict, check

_SIGNS = {Verdict.HOLDS: "ok    ", Verdict.BROKEN: "BROKEN", Verdict.UNKNOWN: "?     "}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.conventions",
                                     description="Do demonstrations and codec mean what training takes them to mean?")
    parser.add_argument("dataset", help="folder with *.hdf5 files, any depth")
    parser.add_argument("--codec", default="delta_velocity", choices=sorted(CODECS))
    parser.add_argument("--observed", default="auto", choices=CHOICES["observed"])
    parser.add_argument("--images", default="auto", choices=CHOICES["images"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        dataset = libero.index(options.dataset, declared=libero.Declared(options.observed, options.images))
        found = check(dataset, codec(options.codec))
    except RdtopsError as error:
        sys.stderr.write(f"{error.message}\n" + (f"next: {error.remedy}\n" if error.remedy else ""))
        return error.exit_code
    sys.stdout.write(json.dumps([f.to_json() for f in found]) + "\n" if options.json
                     else "".join(map(_lines, found)))
    return int(any(f.verdict is Verdict.BROKEN for f in found) and not options.json)


def _lines(found: Finding) -> str:
    says = [f"{_SIGNS[found.verdict]}  {found.convention}: {found.says}"]
    if found.evidence:
        says.append(f"        {found.evidence}")
    if found.verdict is Verdict.BROKEN:
        says += [f"        in {', '.join(found.files)}", f"        -> {found.remedy}"]
    return "\n".join(says) + "\n"


if __name__ == "__main__":
    sys.exit(main())
