"""Host program: make the trainer's environment (venv or conda) beside the one in use, and put it in place when it is
complete.

Standard library, Python 3.8, one file. Requests (one JSON line each), answers (one JSON line each):
    {"op": "look", "place": str, "prefix": str, "conda": str, "elsewhere": [places of the same name]}
        -> {"is_ours": bool, "is_there": bool, "digest": str, "python": "3.11", "machine": "x86_64", "glibc": "2.36",
            "driver": what nvidia-smi says of it, '' without one}
    {"op": "make", "place", "prefix", "digest", "conda", "requirements": str, "constraints": str, "variables": {...},
     "wheels": str, "imports": [modules]}
        -> {"doing": step, "said": the last line of its program}, at each line and each BEAT_S, and in the end
           {"folder": str, "packages": int, "removed": [folders]} | {"problem": str, "said": str}
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
import threading
import time
from collections import deque
from typing import Any, Callable

from rdtops.hostlib import nvidia_smi
from rdtops.hostlib.fields import loads, number, table, whole
from rdtops.hostlib.files import put_in_place, text_of, write_whole
from rdtops.hostlib.locks import alone

PATIENCE_S = 5.0  # another install takes minutes; a request meanwhile fails at once
MARKER = "rdtops.json"  # in a complete environment
CONDA_ROOTS = ("~/miniconda3", "~/anaconda3", "~/miniforge3", "~/mambaforge", "/opt/conda", "/opt/miniconda3")
BEAT_S = 5.0  # who waits is told so often what is being done
SAID_LETTERS = 300  # of a line
KEPT_LINES = 200  # of a program's output, for its error
KEPT = 2  # environments: the current one and the one before it, besides those in use


IMPORTER = ("import importlib, os, sys\n"
            "for name in sys.argv[1:]:\n"
            "    sys.stdout.write(name + os.linesep)\n"
            "    importlib.import_module(name)\n")


class Failed(Exception):
    """A failed step of the build; `problem` is its name."""

    def __init__(self, problem: str, said: str) -> None:
        super().__init__(said)
        self.problem = problem


class Narrator:
    """Says on stdout what is being done. The build goes on when nobody reads it any more."""

    def __init__(self) -> None:
        self._doing, self._said = "", ""
        self._saying, self._is_over = threading.Lock(), threading.Event()

    def __enter__(self) -> Narrator:
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def says(self, doing: str, said: str = "") -> None:
        self._doing, self._said = doing, said.rstrip()[:SAID_LETTERS]
        self._tell()

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_S):
            self._tell()

    def _tell(self) -> None:
        with self._saying:
            if not self._is_over.is_set():
                tell({"doing": self._doing, "said": self._said})


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
                with Narrator() as narrator:
                    build(narrator, folder, digest, **how)
            except Failed as failure:
                shutil.rmtree(folder, ignore_errors=True)
                return {"problem": failure.problem, "said": str(failure)[-1500:]}
        point(folder, place)
        packages = whole(marker_of(folder).get("packages")) or 0
        return {"folder": folder, "packages": packages, "removed": prune(store, folder)}


def build(narrator: Narrator, folder: str, digest: str, prefix: str, conda: str, requirements: str, constraints: str,
          variables: dict[str, str], wheels: str, imports: list[str]) -> None:
    """Build an environment; write the marker last. Raise Failed."""
    def step(name: str, words: list[str], variables: dict[str, str] | None = None) -> None:
        narrator.says(name)
        code, said = watched(prefix, words, variables or {}, lambda line: narrator.says(name, line))
        if code:
            raise Failed(name, said)

    shutil.rmtree(folder, ignore_errors=True)
    if conda:
        offline = ["--offline"] if wheels else []
        step("conda", [conda_program(), "create", "--yes", "--quiet", *offline, "--prefix", folder, "python=" + conda,
                       "pip"])
    else:
        step("venv", [python_of(prefix), "-m", "venv", folder])
    for name, text in (("requirements.txt", requirements), ("constraints.txt", constraints)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    python = os.path.join(folder, "bin", "python")
    source = ["--no-index", "--find-links", wheels] if wheels else []
    pip = [python, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    step("pip", [*pip, "install", "--no-cache-dir", "--progress-bar", "off", *source, "-r",
                 os.path.join(folder, "requirements.txt"), "-c", os.path.join(folder, "constraints.txt")], variables)
    step("check", [*pip, "check"])
    if imports:
        step("import", [python, "-I", "-u", "-c", IMPORTER, *imports])
    frozen = shell(prefix, [*pip, "freeze", "--local"]).stdout.splitlines()
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


def watched(prefix: str, words: list[str], variables: dict[str, str],
            heard: Callable[[str], None]) -> tuple[int, str]:
    """Run a command line to its end, and hand on each line of its output. Return its exit code and the last lines.
    `variables` are in its environment and not on the command line: the URL of an index may have a password."""
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(line_of(prefix, words), env={**clean_environment(), **variables}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                          errors="replace") as program:
        for line in program.stdout or ():
            lines.append(line)
            heard(line)
    return program.returncode, "".join(lines)


def shell(prefix: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line_of(prefix, words), env=clean_environment(), stdin=subprocess.DEVNULL,
                          capture_output=True, encoding="utf-8", errors="replace", check=False)


def line_of(prefix: str, words: list[str]) -> list[str]:
    return ["sh", "-c", prefix + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)]


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


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


def tell(message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def main() -> None:
    request = loads(sys.stdin.buffer.readline())
    operations: dict[str, Callable[..., dict[str, Any]]] = {"look": look, "make": make}
    tell(operations[request.pop("op")](**request))


if __name__ == "__main__":
    main()
