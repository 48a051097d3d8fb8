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
from typing import Any

from rdtops.hostlib.checkpoints import ls
from rdtops.hostlib.fields import loads
from rdtops.hostlib.manifest import stated
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
    found = [finding(os.path.join(checkpoint, f.path), f.path, f.size_bytes, f.md5, digests, recompute)
             for f in sealed.files]
    wrong = [words for words in found if words]
    state = "damaged" if wrong else "unverified" if None in found else "verified"
    return {"state": state, "wrong": wrong}


def finding(path: str, name: str, size: int, md5: str, digests: Digests, recompute: bool) -> str | None:
    """What is wrong with a file, '' when nothing is, None when that is not known."""
    try:
        found = os.path.getsize(path)
        if found != size:
            return f"{name}: {found} bytes instead of {size}"
        there = digests.of(os.fsencode(path), size) if recompute else digests.known(os.fsencode(path), size)
    except FileNotFoundError:
        return f"{name}: missing"
    except (OSError, Problem) as error:
        return f"{name}: {error}"
    return None if not there else "" if there == md5 else f"{name}: MD5 differs"


if __name__ == "__main__":
    main()
