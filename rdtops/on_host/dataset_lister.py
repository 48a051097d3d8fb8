"""Host program: list the demonstrations of a dataset, by the rule that a training follows. Standard library, Python
3.8.

Request (one JSON line): {"folder": str}
Answer  (one JSON line): {"sizes": {path: bytes}, "kind": str (what a folder without demonstrations is, '' if unknown),
                          "problem": str ('' when it could be listed)}
"""

from __future__ import annotations

import json
import os
import sys

from rdtops.hostlib import dataset_files
from rdtops.hostlib.fields import loads


def look(folder: str) -> dict[str, object]:
    if not os.path.isdir(folder):
        return {"sizes": {}, "kind": "", "problem": "" if not os.path.exists(folder) else "it is not a folder"}
    try:
        paths = dataset_files.demonstration_files(folder)
        sizes = {path: os.path.getsize(os.path.join(folder, path)) for path in paths}
        return {"sizes": sizes, "kind": "" if sizes else dataset_files.other_kind(folder), "problem": ""}
    except OSError as error:
        return {"sizes": {}, "kind": "", "problem": str(error)}


def main() -> None:
    sys.stdout.write(json.dumps(look(loads(sys.stdin.buffer.readline())["folder"])) + "\n")


if __name__ == "__main__":
    main()
