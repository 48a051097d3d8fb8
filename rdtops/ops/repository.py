"""What this repository does with itself: its lab, its demo, its tests, its measurements."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rdtops
from rdtops.errors import LabError, RdtopsError, UsageError
from rdtops.lab import packages
from rdtops.lab.site import Lab

if TYPE_CHECKING:
    from rdtops.ops.drill import Drill
    from rdtops.ops.training_drill import TrainingDrill

ROOT = Path(rdtops.__file__).resolve().parents[1]
LAB_HOST = "lab"
Say = Callable[[str], None]


class StepFailed(RdtopsError):
    """A command that we started ended badly; it has said why itself."""


@dataclass(frozen=True)
class Measured:
    """One row of a benchmark. `value` is a ratio, never a time: machines differ."""

    name: str
    value: float
    goal: str
    holds: bool
    how: str


@dataclass(frozen=True)
class Summary:
    """Titled lines."""

    title: str
    pairs: dict[str, str]


def lab() -> Lab:
    """The lab of this checkout, with the ports that hosts.toml names."""
    return Lab(ROOT / ".lab")


def lab_up(say: Say, backend: str = "auto") -> Iterator[Summary]:
    site = lab()
    say(site.up(backend).words)
    make_tiny_assets(say)
    yield Summary("the lab is up", {
        "try it": "inv deploy check train --host lab",
        "by hand": f"ssh -F {_short(site.root / 'ssh_config')} lab",
        "stop it": "inv lab.down"})


def lab_down(say: Say) -> Iterator[Summary]:
    ended = lab().down()
    say(f"the lab is down, {ended} processes ended" if ended else "the lab was down already")
    yield from ()


def lab_status() -> Iterator[Any]:
    yield from lab().status()


def make_tiny_assets(say: Say) -> None:
    """The tiny encoders and weights of the preset `tiny`, made here with transformers; nothing is downloaded."""
    folder = ROOT / ".lab" / "assets"
    if all((folder / name / "config.json").exists() for name in ("rdt-tiny", "t5-tiny", "siglip-tiny")):
        return
    missing = [m for m in ("torch", "transformers") if importlib.util.find_spec(m) is None]
    if missing:
        raise LabError(f"the lab trains for real and needs {' and '.join(missing)}",
                       remedy="pip install -c constraints.txt -e '.[demo]'")
    say("making tiny encoders and weights (once)")
    done = subprocess.run([sys.executable, "-m", "rdtops.trainer.tiny", str(folder)], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise LabError(f"the tiny assets could not be made:\n{done.stderr[-800:]}")


def demo(say: Say) -> Iterator[Any]:
    """The user's own lines, typed for them. Everything in it is real but the size."""
    begun = time.monotonic()
    _system_programs(say)
    for line in ("lab.up", f"deploy check train --host {LAB_HOST}", f"watch --host {LAB_HOST}",
                 "fetch-results"):
        _inv(line)
    fetched = json.loads(_inv(f"fetch-results --host {LAB_HOST} --json"))[0]  # for the summary; nothing moves
    yield Summary(f"done in {time.monotonic() - begun:.0f} s: a training on {LAB_HOST}, reached through lab-jump", {
        "run": f"{fetched['run_id']}, {fetched['state']}",
        "loss curve": _short(fetched["loss_curve"]),
        "checkpoint": _short(Path(fetched["folder"]) / "checkpoints" / fetched["checkpoint"]["name"]),
        "logs": f"{_short(Path(fetched['folder']) / 'train.log')}, journal.jsonl beside it",
        "next": "inv checkpoints --host lab · inv train --resume RUN --set max_steps=300 · inv lab.down",
        "your own host": "put it into hosts.toml, then: inv trust --host NAME; inv deploy check train --host NAME"})


def test(say: Say, *, slow: bool, only: str, coverage: bool) -> Iterator[Any]:
    """pytest over tests/. The long proofs run with --slow only."""
    _system_programs(say)
    words = [sys.executable, "-m", "pytest", *([] if slow else ["-m", "not slow"]), *(["-k", only] if only else []),
             *(["--cov", "--cov-report=term:skip-covered"] if coverage else [])]
    _run(words, "tests failed")
    yield from ()


def lint() -> Iterator[Any]:
    scripts = Path(sys.executable).parent
    for words in (["ruff", "check", "."], ["mypy"], ["lint-imports"]):
        _run([str(scripts / words[0]), *words[1:]], f"{words[0]} has findings")
    yield from ()


def bench(say: Say, name: str, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    from rdtops.ops import check_bench, transfer_bench

    benches: dict[str, Callable[[], Iterator[Measured]]] = {
        "closed-loop": lambda: _bench_closed_loop(quick=quick, only=only),
        "startup": _bench_startup,
        "check": lambda: check_bench.check_rows(say, quick=quick, only=only),
        "trainer": lambda: _bench_trainer(quick=quick, only=only),
        "transfer": lambda: transfer_bench.transfer_rows(say, quick=quick, only=only)}
    if name not in benches:
        raise UsageError(f"there is no bench {name!r}; benches: {', '.join(benches)}")
    yield from benches[name]()


def drill(say: Say, name: str, *, kills: int = 0) -> Iterator[Drill | TrainingDrill]:
    """`kills` 0 means as many as the drill is made for."""
    from rdtops.ops import drill as transfer_drill

    drills: dict[str, Callable[[], Iterator[Drill | TrainingDrill]]] = {
        "transfer": lambda: transfer_drill.drill(say, kills or 200),
        "training": lambda: _drill_training(say, kills or 20)}
    if name not in drills:
        raise UsageError(f"there is no drill {name!r}; drills: {', '.join(drills)}")
    yield from drills[name]()


def _drill_training(say: Say, kills: int) -> Iterator[TrainingDrill]:
    from rdtops.ops import training_drill

    make_tiny_assets(say)
    made = ROOT / ".lab" / "assets"
    assets = {"dataset": str(ROOT / "rdtops" / "lab" / "data"), "pretrained": str(made / "rdt-tiny"),
              "text_encoder": str(made / "t5-tiny"), "vision_encoder": str(made / "siglip-tiny")}
    yield training_drill.drill_training(ROOT / ".lab" / "training-drill", assets, kills, say)


def _bench_startup(rounds: int = 15) -> Iterator[Measured]:
    """`inv --list` here against plain Invoke on an empty tasks.py, in turn, medians."""
    with tempfile.TemporaryDirectory() as empty:
        Path(empty, "tasks.py").touch()
        for arguments in ("--list", "--help train"):
            plain = ["--list"]  # an empty tasks.py has no task to help with
            ours, theirs = [], []
            for _ in range(rounds):
                theirs.append(_seconds(plain, empty))
                ours.append(_seconds(arguments.split(), str(ROOT)))
            ratio = statistics.median(ours) / statistics.median(theirs)
            yield Measured(f"inv {arguments}", round(ratio, 2), "at most 2 x plain Invoke on an empty tasks.py",
                           ratio <= 2, "inv bench startup")


def _bench_trainer(*, quick: bool, only: str) -> Iterator[Measured]:
    """The trainer's own program measures, with one thread a process as accelerate starts it: torch stays over there."""
    yield from _measured_there(["rdtops.trainer.bench", str(ROOT / "rdtops" / "lab" / "data"),
                                *(["--quick"] if quick else []), "--only", only], "[demo]")


def _bench_closed_loop(*, quick: bool, only: str) -> Iterator[Measured]:
    """Films of a success and a failure are left in .lab/closed-loop."""
    yield from _measured_there(["rdtops.trainer.proof", *(["--quick"] if quick else []), "--only", only,
                                "--films", str(ROOT / ".lab" / "closed-loop")], "[trainer,eval]")


def _measured_there(words: list[str], extras: str) -> Iterator[Measured]:
    words = [sys.executable, "-m", *words]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as program:
        assert program.stdout
        for line in program.stdout:
            yield Measured(**json.loads(line))
    if program.returncode:
        raise StepFailed(f"the benchmark ended with exit {program.returncode}; it needs the packages of {extras}",
                         remedy=f"pip install -c constraints.txt -e '.{extras}'")


def _seconds(arguments: list[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "invoke", *arguments], cwd=folder, check=False,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def _system_programs(say: Say) -> None:
    """Install openssh-server, rsync and tmux where we may, else name them: asyncssh and setsid stand in for them."""
    try:
        packages.install_missing(say)
    except LabError as error:
        if os.environ.get("CI") == "true":  # there the real ones are what is to be tested
            raise
        say(f"{error.message}; to have them: {error.remedy}\ngoing on with asyncssh and setsid in their place")


def _inv(line: str) -> str:
    """Type `inv LINE` as a person would and show it; with --json nothing is shown and the output is returned."""
    quiet = subprocess.PIPE if "--json" in line else None
    if not quiet:
        sys.stderr.write(f"\n$ inv {line}\n")
        sys.stderr.flush()
    words = [sys.executable, "-m", "invoke", *line.split()]
    done = subprocess.run(words, cwd=ROOT, stdout=quiet, stderr=quiet, text=True, check=False)
    if done.returncode:
        raise StepFailed(f"`inv {line}` ended with exit {done.returncode}; what it said stands above",
                         remedy=f"inv {line}   # once it is mended; then inv demo")
    return done.stdout or ""


def _run(words: list[str], failure: str) -> None:
    code = subprocess.run(words, cwd=ROOT, check=False).returncode
    if code:
        raise StepFailed(f"{failure} (exit {code})")


def _short(path: str | os.PathLike[str]) -> str:
    """A path as a person would type it from here."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
