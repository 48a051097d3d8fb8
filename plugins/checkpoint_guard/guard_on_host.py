"""Host program of checkpoint_guard: list, verify, copy and delete checkpoints. Standard library, Python 3.8.

Requests (one JSON line each); each is answered by one JSON line {"answer": ...}:
    {"op": "list", "folder"}                     the valid checkpoints in it, as the fields of Checkpoint
    {"op": "wrong", "folder", "digest"}          how a checkpoint differs from its manifest; reads every byte
    {"op": "copy", "folder", "target", "digest"} why there is no verified copy, or ""
    {"op": "delete", "folder", "digest"}         whether it was deleted; false: a process of this user has it open
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any

from rdtops.api import checkpoints, fields, files, manifest


def wrong(folder: str, digest: str) -> list[str]:
    try:
        stated = manifest.stated(folder)
    except (OSError, ValueError) as error:
        return [f"manifest.json: {error}"]
    found = [] if stated.digest == digest else ["manifest.json: belongs to another checkpoint"]
    return found + manifest.differences(folder, stated)


def listed(folder: str) -> list[dict[str, Any]]:
    return checkpoints.listed(folder)[0]


def copy(folder: str, target: str, digest: str) -> str:
    """Copy under a temporary name, flush, read back, then rename. An existing verified copy is kept."""
    if os.path.isdir(target) and not wrong(target, digest):
        return ""
    partial = target + ".tmp"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copytree(folder, partial)
        files.flush_below(partial)
        problems = wrong(partial, digest)
        if not problems:
            shutil.rmtree(target, ignore_errors=True)
            files.put_in_place(partial, target)
            return ""
    except (OSError, shutil.Error) as error:
        problems = [words(error)]
    shutil.rmtree(partial, ignore_errors=True)
    return "; ".join(problems[:3])


def words(error: OSError) -> str:
    """Return the message of an error; shutil.Error has one triple a file."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return str(error.args[0][0][-1])
    return str(error)


def delete(folder: str, digest: str) -> bool:
    """Delete a checkpoint, its manifest first: a partly deleted one must not be valid."""
    if manifest.stated(folder).digest != digest or is_open(folder):
        return False
    os.unlink(os.path.join(folder, manifest.NAME))
    shutil.rmtree(folder)
    return True


def is_open(folder: str) -> bool:
    """Return whether a visible process has a file in the folder open or mapped, or works in it: a resume or an
    evaluation."""
    inside = os.path.realpath(folder) + os.sep
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/maps", "rb") as file:
                if inside.encode() in file.read():
                    return True
            links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{n}" for n in os.listdir(f"/proc/{pid}/fd"))]
        except OSError:
            continue
        for link in links:
            try:
                if (os.readlink(link) + os.sep).startswith(inside):
                    return True
            except OSError:
                continue
    return False


def main() -> None:
    request = fields.loads(sys.stdin.buffer.readline())
    operations: dict[str, Any] = {"list": listed, "wrong": wrong, "copy": copy, "delete": delete}
    answer = operations[request.pop("op")](**request)
    sys.stdout.write(json.dumps({"answer": answer}) + "\n")


if __name__ == "__main__":
    main()
