"""Far side of checkpoint_guard: look at, copy and delete checkpoints. Standard library, Python 3.8, one file.

Requests (one JSON line each); each is answered by one JSON line {"answer": ...}:
    {"op": "list", "folder"}                     the valid checkpoints in it, as the fields of Checkpoint
    {"op": "wrong", "folder", "digest"}          what of a checkpoint is not as its manifest says; reads every byte
    {"op": "copy", "folder", "target", "digest"} why there is no verified copy, or ""
    {"op": "delete", "folder", "digest"}         whether it is gone; false: one of our processes has it open
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from typing import Any

MANIFEST = "manifest.json"


def rows_of(folder: str) -> tuple[str, list[dict[str, Any]]]:
    """Digest and rows of a manifest. Raises OSError or ValueError."""
    try:
        with open(os.path.join(folder, MANIFEST)) as file:
            fields = json.load(file)
        rows = fields["files"]
        lines = "".join("{md5}  {path}\n".format(**row) for row in sorted(rows, key=lambda row: row["path"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a manifest: {error!r}") from error
    if hashlib.md5(lines.encode()).hexdigest() != fields["digest"]:
        raise ValueError("the manifest's own digest does not fit its rows")
    return fields["digest"], rows


def md5_of(path: str) -> str:
    digest = hashlib.md5()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def wrong(folder: str, digest: str) -> list[str]:
    try:
        stated, rows = rows_of(folder)
    except (OSError, ValueError) as error:
        return [f"manifest.json: {error}"]
    found = [] if stated == digest else ["manifest.json: it is another checkpoint"]
    for row in rows:
        try:
            if md5_of(os.path.join(folder, row["path"])) != row["md5"]:
                found.append(row["path"] + ": MD5 differs")
        except OSError as error:
            found.append(f"{row['path']}: {error.strerror}")
    return found


def heldout_loss(folder: str) -> float | None:
    try:
        with open(os.path.join(folder, "trainer.json")) as file:
            loss = float(json.load(file)["heldout_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return loss if loss - loss == 0 else None


def listed(folder: str) -> list[dict[str, Any]]:
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if not (name.startswith("step_") and name[5:].isdigit()):
            continue
        try:
            digest, rows = rows_of(path)
            fits = all(os.path.getsize(os.path.join(path, row["path"])) == row["size_bytes"] for row in rows)
        except (OSError, ValueError):
            continue
        if fits:
            found.append({"step": int(name[5:]), "name": name, "path": path, "digest": digest,
                          "size_bytes": sum(row["size_bytes"] for row in rows), "heldout_loss": heldout_loss(path)})
    return found


def copy(folder: str, target: str, digest: str) -> str:
    """Aside, flushed, read back, and only then under its name. What is verified there already is left as it is."""
    if os.path.isdir(target) and not wrong(target, digest):
        return ""
    partial = target + ".tmp"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copytree(folder, partial)
        flush(partial)
        problems = wrong(partial, digest)
        if not problems:
            shutil.rmtree(target, ignore_errors=True)
            os.rename(partial, target)
            flush_one(os.path.dirname(target))
            return ""
    except (OSError, shutil.Error) as error:
        problems = [words(error)]
    shutil.rmtree(partial, ignore_errors=True)
    return "; ".join(problems[:3])


def words(error: OSError) -> str:
    """shutil.Error gathers one triple a file."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return str(error.args[0][0][-1])
    return str(error)


def flush(folder: str) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            flush_one(os.path.join(root, name))
        flush_one(root)


def flush_one(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(folder: str, digest: str) -> bool:
    """The manifest goes first: a half-deleted checkpoint must not count as one."""
    if rows_of(folder)[0] != digest or is_open(folder):
        return False
    os.unlink(os.path.join(folder, MANIFEST))
    shutil.rmtree(folder)
    return True


def is_open(folder: str) -> bool:
    """A process has a file of it open or mapped, or stands in it, as far as we may see: a resume or an evaluation."""
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
    request = json.loads(sys.stdin.buffer.readline().decode())
    operations: dict[str, Any] = {"list": listed, "wrong": wrong, "copy": copy, "delete": delete}
    answer = operations[request.pop("op")](**request)
    sys.stdout.write(json.dumps({"answer": answer}) + "\n")


if __name__ == "__main__":
    main()
