"""Host program: verify the files of each checkpoint against its manifest. Standard library, Python 3.8.

Request (one JSON line):  {"folder": str, "recompute": bool, "names": [str]}   no names: all of them
Answer (one JSON line):   {"states": {name: {"state": str, "wrong": [str]}}}
`verified`: every file has the MD5 of the manifest; `unverified`: the sizes match and no MD5 differs, but not every
file was read since it was written; `damaged`: `wrong` says which file and how; `unfinished`: no manifest yet.
Fast unless `recompute`: MD5 sums are taken from the transfers' cache, by size, times and inode of a file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Callable

from rdtops.hostlib.checkpoints import ls
from rdtops.hostlib.fields import loads
from rdtops.hostlib.manifest import difference, stated
from rdtops.porter.entries import Problem
from rdtops.porter.file_digests import CACHE, Digests


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    digests = Digests(CACHE)
    folder = request["folder"]
    names = request["names"] or ls(folder)
    states = {name: state_of(os.path.join(folder, name), digests, request["recompute"]) for name in names
              if not name.startswith(".") and os.path.isdir(os.path.join(folder, name))}
    digests.save()
    sys.stdout.write(json.dumps({"states": states}) + "\n")


def state_of(checkpoint: str, digests: Digests, recompute: bool) -> dict[str, Any]:
    try:
        sealed = stated(checkpoint)
    except FileNotFoundError:
        return {"state": "unfinished", "wrong": ["no manifest.json yet: it is being written, or was interrupted"]}
    except (OSError, ValueError) as error:
        return {"state": "damaged", "wrong": [f"manifest.json cannot be read: {error}"]}
    found = [difference(checkpoint, file, known_md5(digests, recompute)) for file in sealed.files]
    wrong = [words for words in found if words]
    state = "damaged" if wrong else "unverified" if None in found else "verified"
    return {"state": state, "wrong": wrong}


def known_md5(digests: Digests, recompute: bool) -> Callable[[Path], str]:
    """Return a function that gives the MD5 of a file from the cache, '' where the cache has none; with `recompute` it
    reads the file then."""
    def md5_of(path: Path) -> str:
        size_bytes = path.stat().st_size
        try:
            return (digests.of if recompute else digests.known)(os.fsencode(path), size_bytes)
        except Problem as problem:
            raise OSError(problem.reason) from None

    return md5_of


if __name__ == "__main__":
    main()
