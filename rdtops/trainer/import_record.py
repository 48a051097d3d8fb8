"""Import record: the imports that went well in an environment, and the state of the files that they read.

Importing torch and what comes with it takes seconds. While the environment is the same, that is the interpreter, the
variables, the folders of packages and every file that was read, the result is known without doing it again. A failed
import is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rdtops.hostlib import fields, files

FOLDER = Path("~/.cache/rdtops/imports")
KEPT = 8  # environments and settings
# what sets them, besides a person, are launch.sh and the module system of a cluster
VARIABLES = ("LD_", "CUDA_", "NVIDIA_", "PYTHON", "USE_", "TORCH", "TRANSFORMERS_", "CONDA_PREFIX", "VIRTUAL_ENV")


def key_of(names: Sequence[str], variables: Mapping[str, str] = os.environ) -> str:
    """Return the digest of what decides, beside the files that are read, how these imports end: the machine, the
    interpreter, its path with the names in each folder of it, the variables."""
    seen = {name: value for name, value in variables.items() if name.startswith(VARIABLES)}
    folders = {folder: _names_in(folder) for folder in sys.path}
    facts = [list(names), os.uname().nodename, sys.version, sys.executable, folders, seen]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def loaded_files() -> list[str]:
    """List the files of the modules and libraries that this process has loaded."""
    found = {str(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    with contextlib.suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
        found |= {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}
    return sorted(path for path in found if Path(path).is_file())


def keep(key: str, paths: Iterable[str], folder: Path = FOLDER) -> None:
    """Record that the imports of `key` went well with these files. A record that cannot be written costs time later."""
    place = folder.expanduser()
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        row = {"at_s": time.time(), "files": {path: _state(path) for path in paths}}
        files.write_whole(place / f"{key}.json", json.dumps(row), 0o600)
        for old in sorted(place.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()


def kept_at(key: str, folder: Path = FOLDER) -> float | None:
    """Return when the imports of `key` went well, as seconds since 1970; None unless every file is as it was then."""
    try:
        row = fields.loads(files.head_of(folder.expanduser() / f"{key}.json", files.TABLE_BYTES).decode())
        same = bool(row["files"]) and all(_state(path) == state for path, state in row["files"].items())
        return fields.number(row["at_s"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _state(path: str) -> list[int]:
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(entry.name for entry in Path(folder or ".").iterdir())
    except OSError:
        return []
