"""Repository: the lab, the demo and the tests of this repository; the results of its benches and drills."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

import rdtops
from rdtops.checks import Status
from rdtops.errors import LabError, RdtopsError
from rdtops.hostlib.fields import loads
from rdtops.lab import doors, packages
from rdtops.lab.packages import SystemProgram
from rdtops.lab.site import JUMP, Lab
from rdtops.views.host_output import LabServerOutput
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import SIGNS, grid_of, table_of

ROOT = Path(rdtops.__file__).resolve().parents[1]
LAB_HOST = "lab"
MOST_WORKERS = 8  # each needs about 1 GB
Say = Callable[[str], None]


class StepFailed(RdtopsError):
    """A command that we started has failed and printed the reason."""


@dataclass(frozen=True)
class StepSummary(WorkflowOutput):
    """Titled lines."""

    title: str
    pairs: dict[str, str]

    def __rich__(self) -> RenderableType:
        return Group(styled("\n[bold green]{}[/]", self.title), grid_of(self.pairs))

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(self)]


@dataclass(frozen=True)
class Measured(WorkflowOutput):
    """One row of a bench. `value` is a ratio, never a time, since machines differ."""

    name: str
    value: float
    goal: str
    holds: bool
    how: str

    @property
    def exit_code(self) -> int:
        return 0 if self.holds else 1

    def __rich__(self) -> RenderableType:
        verdict = "[green]holds[/]" if self.holds else "[bold red]missed[/]"
        return styled(verdict + "  {}: {}  [dim]goal: {}; {}[/]", self.name, f"{self.value:g}", self.goal, self.how)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(self)]


@dataclass(frozen=True)
class Drilled(WorkflowOutput):
    """The faults of a drill, and its problems. A row is a frozen dataclass: its fields are the columns of the table,
    its field or property `passed`, if any, is its sign."""

    title: str
    rows: tuple[Any, ...]
    problems: tuple[str, ...] = ()
    verdict: str = ""  # shown when there is no problem

    @property
    def passed(self) -> bool:
        return not self.problems and all(getattr(row, "passed", True) for row in self.rows)

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 1

    def __rich__(self) -> RenderableType:
        columns = [f.name for f in fields(self.rows[0]) if f.name != "passed"] if self.rows else []
        table = table_of(self.title, "", *(name.replace("_", " ") for name in columns))
        for row in self.rows:
            cells = ("" if getattr(row, name) is None else str(getattr(row, name)) for name in columns)
            table.add_row(SIGNS[Status.OK if getattr(row, "passed", self.passed) else Status.FAIL], *cells)
        verdict = [styled("[green]{}[/]", self.verdict)] if self.passed and self.verdict else []
        return Group(table, *(styled("[bold red]{}[/]", problem) for problem in self.problems), *verdict)

    def to_json(self) -> list[dict[str, Any]]:
        return [{**asdict(row), "passed": getattr(row, "passed", self.passed), "problems": list(self.problems)}
                for row in self.rows]


def lab() -> Lab:
    """Return the lab of this checkout. Its hosts.toml, which that of the checkout includes, has its hosts."""
    return Lab(ROOT / ".lab")


def lab_up(say: Say, backend: str = "auto", door: str = "") -> Iterator[StepSummary]:
    site = lab()
    say(site.up(backend, door).words)
    site.write_routes()
    make_tiny_assets(say)
    yield StepSummary("the lab is up", {
        **_door_words(site),
        "try it": "inv deploy check train --host lab",
        "by hand": f"ssh -F {_short(site.ssh_config)} lab",
        "stop it": "inv lab.down"})


def _door_words(site: Lab) -> dict[str, str]:
    """Return what to know of a door that is not the ordinary one, and what to type at it."""
    if site.door == doors.OPEN:
        return {}
    told = {}
    if site.door in ("noforward", "menu"):  # a session on the jump host shows what it is
        told["the jump host"] = f"ssh -F {_short(site.ssh_config)} {JUMP}"
    if site.words:
        once = " (each is good once)" if site.door != "password" else ""
        told[site.words.name] = f"head -1 {_short(site.words)}{once}"
    return {"door": f"{site.door}: the jump host {doors.DOORS[site.door]}", **told,
            "ordinary door": f"inv lab.up --door {doors.OPEN}"}


def lab_down(say: Say) -> Iterator[WorkflowOutput]:
    site = lab()
    ended = site.down()
    site.forget_routes()
    say(f"the lab is down, {ended} processes stopped" if ended else "the lab is already down")
    yield from ()


def lab_status() -> Iterator[LabServerOutput]:
    yield from map(LabServerOutput, lab().status())


def make_tiny_assets(say: Say) -> None:
    """Make the tiny encoders and weights of the preset `tiny` with transformers; nothing is downloaded."""
    folder = ROOT / ".lab" / "assets"
    if all((folder / name / "config.json").exists() for name in ("rdt-tiny", "t5-tiny", "siglip-tiny")):
        return
    missing = [m for m in ("torch", "transformers") if importlib.util.find_spec(m) is None]
    if missing:
        raise LabError(f"the lab trains for real and needs {' and '.join(missing)}",
                       remedy="pip install -c constraints.txt -e '.[demo]'")
    say("making tiny encoders and weights (once)")
    done = subprocess.run([sys.executable, "-m", "rdtops.trainer.tiny", str(folder)], cwd=ROOT, capture_output=True,
                          encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise LabError(f"the tiny assets could not be made:\n{done.stderr[-800:]}")


def demo(say: Say) -> Iterator[WorkflowOutput]:
    """Run the commands that a user would type. Everything is real except the size."""
    begun = time.monotonic()
    _system_programs(say)
    for line in ("lab.up", f"deploy check train --host {LAB_HOST}", f"watch --plain --host {LAB_HOST}",
                 "fetch-results"):
        _inv(line)
    fetched = loads(_inv(f"fetch-results --host {LAB_HOST} --json"))[0]  # for the summary; nothing is transferred
    yield StepSummary(f"done in {time.monotonic() - begun:.0f} s: a training on {LAB_HOST}, reached through lab-jump", {
        "run": f"{fetched['run_id']}, {fetched['state']}",
        "report": _short(fetched["report"]),
        "loss curve": _short(fetched["loss_curve"]),
        "checkpoint": _short(Path(fetched["folder"]) / "checkpoints" / fetched["checkpoint"]["name"]),
        "logs": f"{_short(Path(fetched['folder']) / 'train.log')}, journal.jsonl beside it",
        "next": "inv checkpoints --host lab · "
                f"inv train --host lab --resume {fetched['run_id']} --set max_steps=300 · inv lab.down",
        "your own host": "an alias of ~/.ssh/config, or a table in ~/.config/rdtops/hosts.toml: docs/hosts.md"})


def test(say: Say, *, slow: bool, only: str, coverage: bool) -> Iterator[Any]:
    """Run pytest over tests/. The slow tests run only with --slow."""
    _system_programs(say)
    _programs_of_tests(say, packages.CLUSTER, "with a cluster")
    _programs_of_tests(say, (*packages.SHELLS, *packages.KERBEROS), "with other login shells, languages and Kerberos")
    if not packages.browser():
        _programs_of_tests(say, packages.BROWSER, "with a browser")
    words = [sys.executable, "-m", "pytest", *(["-k", only] if only else _workers()),
             *([] if slow else ["-m", "not slow"]), *(["--cov", "--cov-report=term:skip-covered"] if coverage else [])]
    _run(words, "tests failed")
    yield from ()


def _workers() -> list[str]:
    """Return pytest-xdist's options: one worker more than cores, since half of the time is waiting. Each has its own
    lab; a file stays with one worker, for its fixtures."""
    count = min(1 + len(os.sched_getaffinity(0)), MOST_WORKERS)
    return ["-n", str(count), "--dist", "loadfile", "--no-loadscope-reorder"]


def lint() -> Iterator[WorkflowOutput]:
    scripts = Path(sys.executable).parent
    for words in (["ruff", "check", "."], ["mypy"], ["lint-imports"]):
        _run([str(scripts / Path(words[0])), *words[1:]], f"{words[0]} has findings")
    yield from ()


def _system_programs(say: Say) -> None:
    """Install openssh-server, rsync and tmux if possible, else name them: asyncssh and setsid replace them."""
    try:
        packages.install_missing(say)
    except LabError as error:
        if os.environ.get("CI") == "true":  # CI must test the real ones
            raise
        say(f"{error.message}; to install them: {error.remedy}\ncontinuing with asyncssh and setsid instead")


def _programs_of_tests(say: Say, wanted: Sequence[SystemProgram], which: str) -> None:
    """Install what some tests need if possible, else say that these are skipped."""
    try:
        packages.install_missing(say, wanted)
    except LabError as error:
        if os.environ.get("CI") == "true":
            raise
        say(f"{error.message}: the tests {which} are skipped; to run them: {error.remedy}")


def _inv(line: str) -> str:
    """Run `inv LINE` and show it; with --json return the output instead."""
    quiet = subprocess.PIPE if "--json" in line else None
    if not quiet:
        sys.stderr.write(f"\n$ inv {line}\n")
        sys.stderr.flush()
    words = [sys.executable, "-m", "invoke", *line.split()]
    done = subprocess.run(words, cwd=ROOT, stdout=quiet, stderr=quiet, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise StepFailed(f"`inv {line}` failed with exit code {done.returncode}; its output is above",
                         remedy=f"inv {line}   # once it is fixed; then inv demo")
    return done.stdout or ""


def _run(words: list[str], failure: str) -> None:
    code = subprocess.run(words, cwd=ROOT, check=False).returncode
    if code:
        raise StepFailed(f"{failure} (exit {code})")


def _short(path: str | os.PathLike[str]) -> str:
    """Return a path relative to the current folder where possible."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
