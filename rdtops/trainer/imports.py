"""Imports: try everything that a training imports of other packages, and name the package that breaks it.

    python -m rdtops.trainer.imports [--fresh] [tensorboard|wandb] [fsdp2]

The list is read from the trainer's source, so it is what runs: also the models of transformers, which are imported when
they are needed. They bring neighbours along, whatever lies in the environment (torchvision, flash_attn, apex), and one
that was built for another torch raises, crashes or hangs. So the imports are made in a process of its own.

Prints a JSON object. "failed": what cannot be imported -> {why, package, versions}; empty where all can. "kept_at_s":
when all could be imported in this same environment (rdtops.trainer.import_record), null where it was tried now;
with --fresh it is always tried.
"""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rdtops.contract import exit_codes
from rdtops.hostlib.fields import loads
from rdtops.trainer import import_record

LIMIT_S = 120.0  # for all of them; with a warm disk they take 5 s
HERE = Path(__file__).parent
FOLDERS = ("data", "distributed", "loop", "model")
PROGRAMS = ("train.py", "process_group.py", "libraries.py", "stacks.py")
# which imports of these files happen depends on a setting: setting -> packages
SETTINGS: dict[Path, dict[str, tuple[str, ...]]] = {
    HERE / "loop" / "trackers.py": {"tensorboard": ("accelerate",), "wandb": ("accelerate", "wandb")},
    HERE / "distributed" / "fsdp2.py": {"fsdp2": ("torch",)}}
LATER = ("sentencepiece", "transformers:AutoTokenizer")  # no import statement of ours names them
# what a training needs is not to blame for what it meets on the way
NEEDED = {"torch", "transformers", "diffusers", "accelerate", "numpy", "safetensors", "h5py", "tokenizers",
          "huggingface_hub", "sentencepiece", "PIL", "rdtops"}
_PACKAGE = re.compile(r"(?:site|dist)-packages/([A-Za-z0-9_]+)")
_FAULT = re.compile(r'^  File "([^"]+)"', re.MULTILINE)


class ImportTrial(NamedTuple):
    """What could not be imported, and the files that were read where all could."""

    failed: dict[str, dict[str, Any]]
    files: list[str]


def wanted(settings: Sequence[str] = ()) -> list[str]:
    """List what a training with these settings imports of other packages, as `package.module:name` or
    `package.module`."""
    files = [HERE / name for name in PROGRAMS] + [file for folder in FOLDERS for file in (HERE / folder).glob("*.py")]
    found = set(LATER)
    for file in files:
        packages = [package for setting in settings for package in SETTINGS.get(file, {}).get(setting, ())]
        found |= {name for name in _imported(file) if file not in SETTINGS or _top(name) in packages}
    # torch first, as in a training; ours last
    return [*sorted(found, key=lambda name: (_top(name) != "torch", name)), "rdtops.trainer.train"]


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}:{alias.name}" for alias in node.names]
        yield from (name for name in names
                    if _top(name) not in (*sys.stdlib_module_names, "rdtops"))


def _top(name: str) -> str:
    return re.split(r"[.:]", name)[0]


def answer(names: Sequence[str], *, fresh: bool = False) -> dict[str, Any]:
    """Return what the program prints."""
    key = import_record.key_of(names)
    kept_at_s = None if fresh else import_record.kept_at(key)
    if kept_at_s is not None:
        return {"failed": {}, "kept_at_s": kept_at_s}
    found = tried(names)
    if found.files:
        import_record.keep(key, found.files)
    return {"failed": found.failed, "kept_at_s": None}


def tried(names: Sequence[str], limit_s: float = LIMIT_S) -> ImportTrial:
    """Import these in other processes. A crash is one of the import in which it happens; the others are tried without
    it."""
    failed: dict[str, dict[str, Any]] = {}
    files: list[str] = []
    rest = list(names)
    while rest:
        done = subprocess.run([sys.executable, "-m", __spec__.name, "--here", str(limit_s), *rest],
                              stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
                              check=False)
        lines = done.stdout.splitlines()
        answers = [loads(line) for line in lines if line.startswith('{"import"')]
        failed.update({answer["import"]: answer["failed"] for answer in answers if answer["failed"]})
        files = next((loads(line)["loaded"] for line in lines if line.startswith('{"loaded"')), [])
        rest = rest[len(answers):]
        if rest:
            failed[rest.pop(0)] = _death(done)
            if "Timeout (" in done.stderr:  # the others would take as long
                break
    return ImportTrial(failed, [] if failed else files)


def _death(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Describe an import that ended its process, by the stack that faulthandler wrote."""
    why = "it takes too long" if "Timeout (" in done.stderr else exit_codes.words(done.returncode)
    return _described(why, [found for path in _FAULT.findall(done.stderr) for found in _PACKAGE.findall(path)])


def _here(names: Sequence[str]) -> None:
    """Import these, and write a line about each."""
    for name in names:
        module, _, attribute = name.partition(":")
        failure = None
        try:
            imported = importlib.import_module(module)
            if attribute and not hasattr(imported, attribute):
                importlib.import_module(f"{module}.{attribute}")
        except BaseException as error:  # some packages exit
            failure = _failure(error)
        sys.stdout.write(json.dumps({"import": name, "failed": failure}) + "\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps({"loaded": import_record.loaded_files()}) + "\n")


def _failure(error: BaseException) -> dict[str, Any]:
    """Describe an error by its root, with the packages on its way, the innermost first."""
    passed: list[str] = []
    cause: BaseException | None = error
    root = error
    while cause is not None:
        frames = [str(frame.filename) for frame in traceback.extract_tb(cause.__traceback__)]
        file = cause.path if isinstance(cause, ImportError) else getattr(cause, "filename", None)  # of a SyntaxError
        files = [*frames, *([str(file)] if file else [])]
        passed = [found for file in reversed(files) for found in _PACKAGE.findall(file)] + passed
        root, cause = cause, cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return _described(f"{type(root).__name__}: {root}", passed)


def _described(why: str, passed: Sequence[str]) -> dict[str, Any]:
    package = next((name for name in passed if name not in NEEDED), "")
    versions = {name: version for name in dict.fromkeys(("torch", package)) if (version := _version(name))}
    return {"why": " ".join(why.split())[:300], "package": package, "versions": versions}


def _version(package: str) -> str:
    """Return the version of a package; '' where nobody tells it, as where its distribution has another name."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return importlib.metadata.version(package)
    return ""


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--here"]:
        faulthandler.enable()
        faulthandler.dump_traceback_later(float(arguments[1]), exit=True)
        _here(arguments[2:])
    else:
        settings = [argument for argument in arguments if argument != "--fresh"]
        sys.stdout.write(json.dumps(answer(wanted(settings), fresh="--fresh" in arguments)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
