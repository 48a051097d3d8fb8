"""`inv drill environments`: the user's line, a kill and resume, and the trainer's tests of parity and bits, in real
environments: that of RDT's authors, the oldest versions that pyproject.toml admits, some in between, and the newest.

An environment is a venv of the registry's packages; the first has about 3 GB, since torch brings CUDA. What was proven
is written into environments.json, against which tests/proofs/test_environments.py holds the floors.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proofs.drills.survive_drill import EVERYTHING, DrillTraining
from proofs.drills.training_drill import differences
from proofs.staging import library_names
from proofs.staging.ground import lab_in, named_assets, tiny_assets
from proofs.staging.typed import Laptop
from rdtops.checks import Status
from rdtops.delivery import requirements
from rdtops.delivery.proven_environments import proven
from rdtops.lab.site import Lab
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Environment
from rdtops.ui.repository import LAB_HOST, ROOT, Drilled, Say, StepFailed

TABLE = Path(__file__).with_name("environments.json")
TOOLS = ("asyncssh", "hypothesis", "pytest", "pytest-timeout", "tensorboard")  # of the tests
# bit and parity tests; the others of the trainer are about files and words
TESTS = ("tests/trainer/model/test_rdt.py", "tests/trainer/model/test_pixels.py", "tests/trainer/model/test_sharing.py",
         "tests/trainer/test_train.py", "tests/trainer/test_evaluate.py", "tests/trainer/loop/test_checkpoint.py")
NEWER_ONLY = "fp16"  # on CPUs since torch 2.3
STEPS = 60
KILLED_AT = 25
LINE_S, TESTS_S, INSTALL_S = 900.0, 3600.0, 7200.0
HELD = "the floors of pyproject.toml are those of the oldest environment, in which all of it was done"


@dataclass(frozen=True)
class Versions:
    """An environment. Without pins it is the Python that runs the drill, made from constraints.txt."""

    name: str
    pins: Mapping[str, str]
    interpreter: str = "python3.11"
    deselected: str = ""  # of the tests
    has_tests: bool = True

    def python(self, folder: Path) -> str:
        return str(folder / self.name / "bin" / "python") if self.pins else sys.executable


@dataclass(frozen=True)
class Tried:
    """One thing that was done in one environment; `found`: why it failed, or a number."""

    environment: str
    done: str
    found: str
    seconds: float
    passed: bool


def table_of_environments() -> tuple[Versions, ...]:
    newest, middle, oldest = proven()
    return (Versions("rdt", oldest.pins, "python3.10", has_tests=False),  # the tests import the laptop's code, of 3.11
            Versions(oldest.name, oldest.pins, deselected=NEWER_ONLY), Versions(middle.name, middle.pins),
            Versions(newest.name, {}))


def drill(say: Say, *, kills: int = 0, only: str = "", folder: str = "") -> Iterator[Drilled]:  # noqa: ARG001
    """Run the drill. `folder`: where the venvs lie; they are kept, and used again."""
    venvs = Path(folder or ROOT / ".lab" / "environments").absolute()
    chosen = [versions for versions in table_of_environments() if only in versions.name]
    rows: list[Tried] = []
    problems: list[str] = []
    with lab_in(ROOT / ".lab" / "environments-lab") as lab:
        for versions in chosen:
            try:
                _make(versions, venvs, say)
            except StepFailed as error:
                problems.append(f"{versions.name}: {error.message}")
                continue
            tried = list(_tried(versions, venvs, lab, say))
            rows += tried
            if all(row.passed for row in tried):
                _record(versions, venvs, tried)
    yield Drilled(f"{len(chosen)} environments", tuple(rows), tuple(problems), HELD)


def _make(versions: Versions, venvs: Path, say: Say) -> None:
    """Make or complete the venv. pip finds in seconds that nothing is missing."""
    if not versions.pins:
        return
    say(f"{versions.name}: {', '.join(f'{name} {version}' for name, version in versions.pins.items())}")
    python = versions.python(venvs)
    if not Path(python).exists():
        base = shutil.which(versions.interpreter)
        if not base:
            raise StepFailed(f"{versions.interpreter} is not on PATH: it was not tried")
        _run([base, "-m", "venv", str(venvs / versions.name)], INSTALL_S)
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    _run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check",
          *(f"{name}=={version}" for name, version in versions.pins.items()),
          *((*ours, *TOOLS) if versions.has_tests else ())], INSTALL_S)


def _tried(versions: Versions, venvs: Path, lab: Lab, say: Say) -> Iterator[Tried]:
    python = versions.python(venvs)
    trials: dict[str, Callable[[], str]] = {
        "the names that the trainer uses": lambda: _names(python),
        "deploy check train, replay, fetch-results": lambda: _line(versions, python, lab, say),
        "killed with all its processes and resumed": lambda: _resumed(versions, python, lab)}
    if versions.has_tests:
        trials["tests of parity and bits"] = lambda: _tests(versions, python)
    for done, trial in trials.items():
        begun_s = time.monotonic()
        try:
            found, passed = trial(), True
        except StepFailed as error:
            found, passed = error.message, False
        row = Tried(versions.name, done, found[-1500:], round(time.monotonic() - begun_s, 1), passed)
        say(f"{versions.name}: {done}: {row.found}")
        yield row


# --- what is tried: each returns what it found, or raises StepFailed ---

def _names(python: str) -> str:
    lacking = json.loads(_run([python, "-m", "proofs.staging.library_names"], LINE_S))
    if lacking:
        raise StepFailed(f"not there: {', '.join(lacking)}")
    return f"{len(library_names.used())} are there"


def _line(versions: Versions, python: str, lab: Lab, say: Say) -> str:
    """Type the line of the README against a lab, whose host has the environment."""
    laptop = Laptop(lab.root / f"laptop-{versions.name}", lab, named_assets(say))
    hosts = laptop.folder / "hosts.toml"
    venv = Path(python).parents[1]
    hosts.write_text(re.sub(rf"(\[hosts\.{LAB_HOST}\]\n)", rf'\1environment = {{ venv = "{venv}" }}\n',
                            hosts.read_text()))
    laptop.good(f"deploy --host {LAB_HOST}", timeout_s=LINE_S)
    (report,) = laptop.good(f"check --host {LAB_HOST} --json").rows()
    bad = [row for row in report["results"] if row["name"] in ("packages", "imports") and row["status"] != Status.OK]
    if bad:
        raise StepFailed(f"checks: {bad}")
    laptop.good(f"deploy check train --host {LAB_HOST} --set max_steps={STEPS} --set checkpoint_every_steps=20 "
                "--follow", timeout_s=LINE_S)
    (replayed,) = laptop.good(f"replay --host {LAB_HOST} --step 21 --json").rows()
    if not replayed["is_exact"]:
        raise StepFailed(f"replay: the loss is not the recorded one: {replayed}")
    (fetched,) = laptop.good(f"fetch-results --host {LAB_HOST} --json", timeout_s=LINE_S).rows()
    if fetched["state"] != "finished" or not fetched["checkpoint"]:
        raise StepFailed(f"fetched: {fetched}")
    return f"finished at step {STEPS}; {fetched['checkpoint']['name']} is here, its loss replayed to the bit"


def _resumed(versions: Versions, python: str, lab: Lab) -> str:
    """Kill a training with all its processes, resume it, and compare it with one that was left alone."""
    lab.write_inventory(lab.root / "hosts.toml", {})
    host = inventory.load(lab.root / "hosts.toml").host(LAB_HOST)
    host = replace(host, environment=Environment(venv=str(Path(python).parents[1])),
                   workspace=str(lab.home(LAB_HOST) / f"resumed-{versions.name}"))
    with Connection(host) as connection:
        left_alone, killed = (DrillTraining(connection, tiny_assets(), STEPS) for _ in range(2))
        left_alone.start()
        left_alone.wait_for_end()
        killed.start()
        repeated = killed.suffer(EVERYTHING, KILLED_AT, random.Random(0)).steps_repeated  # noqa: S311
        killed.wait_for_end()
        if wrong := differences(left_alone.subject, killed.subject):
            raise StepFailed("; ".join(wrong))
    return f"{repeated} steps repeated, the same bits in the end"


def _tests(versions: Versions, python: str) -> str:
    deselected = f" and not {versions.deselected}" if versions.deselected else ""
    said = _run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "-m", "not slow",
                 "-k", f"not slow{deselected}", *TESTS], TESTS_S)
    return said.strip().splitlines()[-1]


def _run(words: list[str], limit_s: float) -> str:
    """Return the standard output. Raise StepFailed with the end of both where it fails."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False,
                              timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"{words[0]} {words[2]} had not ended after {limit_s:.0f} s") from error
    if done.returncode:
        raise StepFailed(f"{words[0]} {words[2]} failed: {(done.stdout + done.stderr).strip()[-1500:]}")
    return done.stdout


# --- the table ---

def recorded() -> dict[str, dict[str, Any]]:
    """Return what was proven, by the name of the environment."""
    return dict(json.loads(TABLE.read_text())) if TABLE.exists() else {}


def _record(versions: Versions, venvs: Path, tried: list[Tried]) -> None:
    python = versions.python(venvs)
    asked = ("import importlib.metadata as m, json, platform, sys; print(json.dumps({'python': "
             "platform.python_version(), 'packages': {n: m.version(n) for n in sys.argv[1:]}}))")
    names = dict.fromkeys((*requirements.lowest(requirements.of_trainer()), *versions.pins))
    found = json.loads(_run([python, "-c", asked, *names], LINE_S))
    entry = {**found, "done": {row.done: row.found for row in tried}, "names": " ".join(library_names.used())}
    TABLE.write_text(json.dumps({**recorded(), versions.name: entry}, indent=1) + "\n")
