"""Host program: make the trainer's environment (venv or conda) beside the one in use, and put it in place when it is
complete.

Standard library, Python 3.8, one file. Requests (one JSON line each), answers (one JSON line each):
    {"op": "look", "place": str, "prefix": str, "conda": str, "elsewhere": [places of the same name]}
        -> {"is_ours": bool, "is_there": bool, "digest": str, "python": "3.11", "machine": "x86_64", "glibc": "2.36",
            "driver": what nvidia-smi says of it, '' without one}
    {"op": "make", "place", "prefix", "digest", "conda", "requirements": str, "constraints": str, "variables": {...},
     "wheels": str} -> {"folder": str, "packages": int, "removed": [folders]} | {"problem": str, "said": str}
The environment lies in PLACE.d/DIGEST, and PLACE is a link to it: running trainings keep theirs. `prefix` is shell code
that loads modules; `wheels` a folder of wheels, '' where pip may use an index; `conda` the version of Python for a
conda environment, '' for a venv.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from typing import Any, Callable

from rdtops.hostlib import nvidia_smi
from rdtops.hostlib.fields import loads, number, table, whole
from rdtops.hostlib.files import put_in_place, text_of, write_whole
from rdtops.hostlib.locks import alone

PATIENCE_S = 5.0  # another install takes minutes; a request meanwhile fails at once
MARKER = "rdtops.json"  # in a complete environment
CONDA_ROOTS = ("~/miniconda3", "~/anaconda3", "~/miniforge3", "~/mambaforge", "/opt/conda", "/opt/miniconda3")
KEPT = 2  # environments: the current one and the one before it, besides those in use


class Failed(Exception):
    """A failed step of the build; `problem` is its name."""

    def __init__(self, problem: str, said: str) -> None:
        super().__init__(said)
        self.problem = problem


def look(place: str, prefix: str, conda: str, elsewhere: list[str]) -> dict[str, Any]:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = [conda] if conda else shell(prefix, [python_of(prefix), "-I", "-c", code]).stdout.split()
    others = [other for other in map(os.path.expanduser, elsewhere) if other != place and os.path.lexists(other)]
    marked = {} if others else marker_of(os.path.realpath(place))
    return {"is_there": bool(others) or os.path.lexists(place), "is_ours": os.path.islink(place) and bool(marked),
            "digest": str(marked.get("digest", "")) if starts(place) else "",
            "python": version[-1] if version else "", "machine": platform.machine(), "glibc": platform.libc_ver()[1],
            "driver": nvidia_smi.output(nvidia_smi.query(nvidia_smi.DRIVER))[:1000]}


def make(place: str, digest: str, **how: Any) -> dict[str, Any]:
    store = place + ".d"
    os.makedirs(store, exist_ok=True)
    with alone(os.path.join(store, ".lock"), PATIENCE_S) as mine:
        if not mine:
            return {"problem": "busy", "said": store}
        if os.path.lexists(place) and not os.path.islink(place):
            return {"problem": "foreign", "said": place}
        folder = os.path.join(store, digest[:12])
        if marker_of(folder).get("digest") != digest or not starts(folder):
            try:
                build(folder, digest, **how)
            except Failed as failure:
                shutil.rmtree(folder, ignore_errors=True)
                return {"problem": failure.problem, "said": str(failure)[-1500:]}
        point(folder, place)
        packages = whole(marker_of(folder).get("packages")) or 0
        return {"folder": folder, "packages": packages, "removed": prune(store, folder)}


def build(folder: str, digest: str, prefix: str, conda: str, requirements: str, constraints: str,
          variables: dict[str, str], wheels: str) -> None:
    """Build an environment; write the marker last. Raise Failed."""
    shutil.rmtree(folder, ignore_errors=True)
    if conda:
        offline = ["--offline"] if wheels else []
        step("conda", prefix, [conda_program(), "create", "--yes", "--quiet", *offline, "--prefix", folder,
                               "python=" + conda, "pip"], {})
    else:
        step("venv", prefix, [python_of(prefix), "-m", "venv", folder], {})
    for name, text in (("requirements.txt", requirements), ("constraints.txt", constraints)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    python = os.path.join(folder, "bin", "python")
    source = ["--no-index", "--find-links", wheels] if wheels else []
    pip = [python, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    step("pip", prefix, [*pip, "install", "--no-cache-dir", *source, "-r", os.path.join(folder, "requirements.txt"),
                         "-c", os.path.join(folder, "constraints.txt")], variables)
    step("check", prefix, [*pip, "check"], {})
    frozen = step("freeze", prefix, [*pip, "freeze", "--local"], {}).splitlines()
    write_whole(os.path.join(folder, MARKER), json.dumps(
        {"digest": digest, "made_s": round(time.time()), "packages": len(frozen), "frozen": frozen}))


def point(folder: str, place: str) -> None:
    new = place + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(os.path.join(os.path.basename(place) + ".d", os.path.basename(folder)), new)
    put_in_place(new, place)


def prune(store: str, current: str) -> list[str]:
    """Remove old environments, except the newest of them and those that a process was started from. Return them."""
    others = [os.path.join(store, name) for name in os.listdir(store) if not name.startswith(".")]
    others = sorted((p for p in others if p != current), reverse=True,
                    key=lambda p: number(marker_of(p).get("made_s")) or 0.0)
    surplus = [p for p in others[KEPT - 1:] if not in_use(p)] + [p for p in others[:KEPT - 1] if not marker_of(p)]
    for path in surplus:
        shutil.rmtree(path, ignore_errors=True)
    return surplus


def in_use(folder: str) -> bool:
    mark = os.path.realpath(folder).encode()
    for pid in (n for n in os.listdir("/proc") if n.isdigit()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if mark in file.read():
                return True
    return False


# --- steps ---

def conda_program() -> str:
    """Return the path of conda. Raise Failed where there is none."""
    places = [os.environ.get("CONDA_EXE", ""), shutil.which("conda") or "",
              *(os.path.expanduser(root) + "/bin/conda" for root in CONDA_ROOTS)]
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    raise Failed("conda", "there is no conda; looked for " + ", ".join(place for place in places if place))


def python_of(prefix: str) -> str:
    """Return the Python that runs this program, or the one of the modules."""
    return "python3" if prefix else sys.executable


def step(name: str, prefix: str, words: list[str], variables: dict[str, str]) -> str:
    done = shell(prefix, words, variables)
    if done.returncode:
        raise Failed(name, done.stdout + done.stderr)
    return done.stdout


def shell(prefix: str, words: list[str], variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command line, with `variables` in the environment and not on the command line: the URL of an index may have
    a password."""
    line = prefix + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(["sh", "-c", line], env={**clean, **(variables or {})}, stdin=subprocess.DEVNULL,
                          capture_output=True, encoding="utf-8", errors="replace", check=False)


def marker_of(folder: str) -> dict[str, Any]:
    """Return the content of the marker; {} where the environment is not complete, or not ours."""
    try:
        return table(loads(text_of(os.path.join(folder, MARKER))))
    except ValueError:
        return {}


def starts(folder: str) -> bool:
    python = os.path.join(folder, "bin", "python")
    try:
        return subprocess.run([python, "-I", "-c", "import pip"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    operations: dict[str, Callable[..., dict[str, Any]]] = {"look": look, "make": make}
    sys.stdout.write(json.dumps(operations[request.pop("op")](**request)) + "\n")


if __name__ == "__main__":
    main()
