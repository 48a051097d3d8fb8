"""Far side: whether the files of each checkpoint still are what its manifest says. Standard library, Python 3.8.

Request (one JSON line):  {"folder": str, "recompute": bool, "names": [str]}   no names: all of them
Answer (one JSON line):   {"states": {name: {"state": str, "wrong": [str]}}}
`verified`: every file has the MD5 of the manifest; `unverified`: the sizes fit and nothing contradicts, but not every
file was read since it was written; `damaged`: what is wrong says which file and how; `unfinished`: no manifest yet.
Cheap unless `recompute`: MD5 sums are those that the transfers' cache holds for such a file: its size, times, inode.
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
        return {"state": "unfinished", "wrong": ["there is no manifest.json yet: it is being written, or was cut off"]}
    except (OSError, ValueError) as error:
        return {"state": "damaged", "wrong": [f"manifest.json cannot be read: {error}"]}
    found = [difference(checkpoint, file, known_md5(digests, recompute)) for file in sealed.files]
    wrong = [words for words in found if words]
    state = "damaged" if wrong else "unverified" if None in found else "verified"
    return {"state": state, "wrong": wrong}


def known_md5(digests: Digests, recompute: bool) -> Callable[[Path], str]:
    """What the cache knows of a file, '' where it does not know it; `recompute`: read it then."""
    def md5_of(path: Path) -> str:
        size_bytes = path.stat().st_size
        try:
            return (digests.of if recompute else digests.known)(os.fsencode(path), size_bytes)
        except Problem as problem:
            raise OSError(problem.reason) from None

    return md5_of


if __name__ == "__main__":
    main()
