"""`inv drill laptop`: `inv` is killed with SIGKILL at random remote calls of `inv deploy check train` and of
`inv fetch-results`, or loses its jump host, and the same command is repeated until it is done.

It must end with exactly one training, launched once, with no partial file anywhere, and with results that have the
host's digests. The killed `inv` is a separate process; it writes its calls to RDTOPS_CALLS.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdtops.hostlib import manifest, processes
from rdtops.hostlib.manifest import FileDigest, Manifest
from rdtops.lab.ports import Ports
from rdtops.lab.site import JUMP, Lab
from rdtops.runs.results import PNG
from rdtops.ssh import call_log
from rdtops.ui.repository import ROOT, Drilled, Say, StepFailed, make_tiny_assets

HOST = "lab"
SETTINGS = ("--set max_steps=100000 --set checkpoint_every_steps=5 --set heldout_share=0 "
            "--set checkpoints_total_limit=2 --set num_processes=1")
BEGIN = f"deploy check train --host {HOST} {SETTINGS}"
FETCH = f"fetch-results --host {HOST}"
FETCH_SHARE = 0.5  # share of the kills; these are faster, as nothing is trained between them
IN_A_ROW = 8  # most kills before the command is left undisturbed
TRIES = 6  # undisturbed tries; one should do
LINE_TIMEOUT_S = 600.0
POLL_S = 0.005
CONVERGED = "every command completed: one training, launched once, no partial file, results with the host's digests"
OF_A_TRANSFER = ".rdtops-"  # parts and locks
MADE_HERE = {"loss.svg": b"</svg>", "loss.png": b"IEND\xaeB`\x82", "report.html": b"</html>", "run.json": b"}",
             "README.md": b"every file"}  # files of fetched results, and their last bytes


@dataclass(frozen=True)
class KilledCall:
    """The kills during one task."""

    during: str
    laptops_killed: int
    jumps_cut: int


@dataclass(frozen=True)
class KilledLaptop:
    """A laptop: a folder for everything that it writes, and its inventory."""

    folder: Path
    hosts: Path

    def start(self, line: str) -> subprocess.Popen[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.calls.unlink(missing_ok=True)
        env = {**os.environ, "RDTOPS_HOSTS": str(self.hosts), "RDTOPS_STATE": str(self.folder / "state"),
               "XDG_CONFIG_HOME": str(self.folder / "config"), call_log.VARIABLE: str(self.calls)}
        return subprocess.Popen([sys.executable, "-m", "invoke", *line.split()], cwd=ROOT, env=env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                errors="replace", start_new_session=True)

    def type(self, line: str) -> tuple[int, str]:
        """Run the command undisturbed. Return its exit code and output."""
        process = self.start(line)
        return _end_of(process)

    @property
    def calls(self) -> Path:
        return self.folder / "calls.jsonl"

    def called(self) -> int:
        """Return the number of calls so far."""
        try:
            return self.calls.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def told(self) -> list[dict[str, object]]:
        """Return the complete calls so far, in order."""
        try:
            lines = self.calls.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]


def drill(say: Say, *, kills: int = 0, only: str = "", door: str = "") -> Iterator[Drilled]:
    """Run the drill: 100 kills in a separate lab. `only`: begin or fetch; `door`: that of the lab's jump host."""
    make_tiny_assets(say)
    made = ROOT / ".lab" / "assets"
    assets = {name: str(made / name) for name in ("rdt-tiny", "t5-tiny", "siglip-tiny")}
    assets["libero_tiny"] = str(ROOT / "rdtops" / "lab" / "data")
    lab = Lab(ROOT / ".lab" / "laptop-drill", Ports.free())
    try:
        say(lab.up(door=door).words)
        yield drill_laptop(lab, lab.root / "laptops", assets, kills or 100, say, only=only)
    finally:
        lab.down()


def drill_laptop(lab: Lab, folder: Path, assets: Mapping[str, str], kills: int, say: Say, *, only: str = "",
                 seed: int = 0) -> Drilled:
    """Run the trials. Each has its own workspace on the host. All files of the laptops are below `folder`."""
    begun_s = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ground = _Ground(lab, folder, assets, random.Random(seed), say)  # noqa: S311  # moments, not secrets
    of_fetch = 0 if only == "begin" else kills if only == "fetch" else round(kills * FETCH_SHARE)
    try:
        ground.begin_trainings(kills - of_fetch)
        ground.fetch_results(of_fetch)
    finally:
        if ground.begun:
            _end_all(ground.begun[1])
    title = (f"{sum(ground.struck.values())} kills in {ground.trials} trials, {ground.reruns} lines typed again, "
             f"{time.monotonic() - begun_s:.0f} s")
    return Drilled(title, ground.rows(), tuple(ground.problems), CONVERGED)


@dataclass
class _Ground:
    """Trials one after another, and the problems found."""

    lab: Lab
    folder: Path
    assets: Mapping[str, str]
    chance: random.Random
    say: Say
    begun: tuple[KilledLaptop, Path] | None = None  # with a running training
    trials: int = 0
    reruns: int = 0
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def begin_trainings(self, kills: int) -> None:
        if not kills:
            return
        moments = self._rehearse(BEGIN)
        while self._kills() < kills:
            laptop, workspace = self._fresh()
            self._disturb(laptop, BEGIN, moments, kills - self._kills())
            if self._come_to_an_end(laptop, BEGIN):
                self._judge(_wrong_with_training(workspace))
            if self._kills() >= kills:
                self.begun = (laptop, workspace)
            else:
                _end_all(workspace)
                shutil.rmtree(workspace, ignore_errors=True)  # work requested by a killed laptop may still run
            self.say(f"{self._kills()} kills: {self._words()}")

    def fetch_results(self, kills: int) -> None:
        """Fetch the results of one ended run."""
        if not kills:
            return
        before = self._kills()
        laptop, workspace = self.begun or self._fresh()
        if not self.begun and not self._come_to_an_end(laptop, BEGIN):
            return
        _wait_for_checkpoint(workspace)
        _end_all(workspace)
        moments = self._rehearse(FETCH, laptop)
        while self._kills() - before < kills:
            self.trials += 1
            into = laptop.folder / f"results-{self.trials}"
            line = f"{FETCH} --into {into}"
            self._disturb(laptop, line, moments, kills - (self._kills() - before))
            if self._come_to_an_end(laptop, line):
                self._judge(_wrong_with_results(into / HOST, workspace))
            shutil.rmtree(into, ignore_errors=True)
            self.say(f"{self._kills()} kills: {self._words()}")

    def rows(self) -> tuple[KilledCall, ...]:
        tasks = dict.fromkeys(task for task, _ in self.struck)
        return tuple(KilledCall(task, self.struck[task, "laptop"], self.struck[task, "jump"]) for task in tasks)

    def _rehearse(self, line: str, laptop: KilledLaptop | None = None) -> list[float]:
        """Return the seconds from each call of the undisturbed command to the next."""
        workspace = None
        if laptop is None:
            laptop, workspace = self._fresh()
        into = f" --into {laptop.folder / 'rehearsal'}" if line == FETCH else ""
        code, said = laptop.type(line + into)
        if code:
            raise StepFailed(f"`inv {line}` fails even if undisturbed:\n{said[-1500:]}")
        times = sorted(float(str(call["time_s"])) for call in laptop.told())  # written by several threads
        if workspace:
            _end_all(workspace)
        return [later - earlier for earlier, later in zip(times, [*times[1:], times[-1] + 0.2], strict=True)]

    def _disturb(self, laptop: KilledLaptop, line: str, moments: Sequence[float], at_most: int) -> None:
        for _ in range(min(at_most, self.chance.randint(1, IN_A_ROW))):
            number = self.chance.randrange(len(moments))
            within = self.chance.choice((0.0, self.chance.random() * moments[number]))  # at the call, or during it
            cut_the_jump = self.chance.random() < 0.1
            process = laptop.start(line)
            if _wait_for_call(laptop, process, number):
                time.sleep(within)
            if process.poll() is None:
                task = str(laptop.told()[-1]["task"]) if laptop.told() else "start"
                self.struck[task, self._strike(process, cut_the_jump)] += 1
            _end_of(process)
            self.reruns += 1

    def _strike(self, process: subprocess.Popen[str], cut_the_jump: bool) -> str:
        """Kill the jump host's connection. Return what was hit: with asyncssh it has no process for each connection."""
        serving = self.lab.connections(JUMP) if cut_the_jump else set()
        if serving:
            processes.send(serving, signal.SIGKILL)
            return "jump"
        os.killpg(process.pid, signal.SIGKILL)
        return "laptop"

    def _come_to_an_end(self, laptop: KilledLaptop, line: str) -> bool:
        said = ""
        for _ in range(TRIES):
            code, said = laptop.type(line)
            if code == 0:
                return True
            self.reruns += 1
        self._judge([f"`inv {line}` did not complete in {TRIES} tries: {said.strip()[-600:]}"])
        return False

    def _fresh(self) -> tuple[KilledLaptop, Path]:
        """Return a laptop without state, and an empty workspace on the host."""
        self.trials += 1
        workspace = self.lab.home(HOST) / f"trial-{self.trials}"
        _end_all(workspace)  # left by a drill that was killed itself
        shutil.rmtree(workspace, ignore_errors=True)
        hosts = self.folder / f"hosts-{self.trials}.toml"
        self.lab.write_inventory(hosts, self.assets)
        hosts.write_text(hosts.read_text().replace('"~/rdtops"', f'"~/trial-{self.trials}"'))
        return KilledLaptop(self.folder / f"laptop-{self.trials}", hosts), workspace

    def _judge(self, wrong: Sequence[str]) -> None:
        for what in wrong:
            self.problems.append(f"trial {self.trials}: {what}")
            self.say(self.problems[-1])

    def _kills(self) -> int:
        return sum(self.struck.values())

    def _words(self) -> str:
        during = ", ".join(f"{row.during} {row.laptops_killed + row.jumps_cut}" for row in self.rows())
        return f"{len(self.problems)} problems in {self.trials} trials ({during})"


# --- conditions ---

def _wrong_with_training(workspace: Path) -> list[str]:
    """Return the deviations from one training, launched once, of a whole release, with whole data."""
    runs = [p for p in (workspace / "runs").iterdir() if not p.name.startswith(".")]
    litter = [str(p.relative_to(workspace)) for p in workspace.rglob("*")
              if "checkpoints" not in p.parts  # the training writes there
              and (p.name.startswith((".preparing-", ".incoming-", OF_A_TRANSFER)) or p.suffix == ".tmp")]
    wrong = [f"left over: {', '.join(litter)}"] if litter else []
    if len(runs) != 1:
        return [*wrong, f"{len(runs)} runs: {', '.join(r.name for r in runs)}"]
    journal = (runs[0] / "journal.jsonl").read_text()
    launches = journal.count('"kind": "launched"')
    if launches != 1:
        wrong.append(f"{runs[0].name} was launched {launches} times")
    if not processes.is_alive((runs[0] / "process").read_text()):
        wrong.append(f"{runs[0].name} does not run: {(runs[0] / 'train.log').read_text()[-300:]}")
    release = Path(json.loads((runs[0] / "config.json").read_text())["release"])
    told = json.loads((release / "snapshot.json").read_text())
    sealed = Manifest(tuple(FileDigest(**row) for row in told["files"]))
    wrong += [f"release: {what}" for what in manifest.differences(release, sealed)]
    return wrong


def _wrong_with_results(results: Path, workspace: Path) -> list[str]:
    """Return the differences from the host's files."""
    (run,) = [p for p in (workspace / "runs").iterdir() if not p.name.startswith(".")]
    wrong = [f"left over: {p.name}" for p in results.rglob("*") if p.name.startswith((OF_A_TRANSFER, ".loss"))]
    for path in (p for p in (results / run.name).rglob("*") if p.is_file() and p.name not in MADE_HERE):
        original = run / path.relative_to(results / run.name)
        if path.read_bytes() != original.read_bytes():
            wrong.append(f"{path.name} is not what the host has")
    for name, end in MADE_HERE.items():
        made = results / run.name / name
        if name == PNG and not made.exists():  # no extra `plots` here
            continue
        if not made.read_bytes().rstrip().endswith(end):
            wrong.append(f"incomplete {name}")
    newest = max(p.name for p in (run / "checkpoints").glob("step_*") if p.name[5:].isdigit())
    if manifest.read(results / run.name / "checkpoints" / newest) is None:
        wrong.append(f"{newest} did not come home")
    return wrong


# --- waiting and ending ---

def _end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait. Return exit code and output. One that hangs is killed, and counts as not completed."""
    try:
        said = process.communicate(timeout=LINE_TIMEOUT_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = f"{process.communicate()[0]}\n(no end within {LINE_TIMEOUT_S:g} s)"
    return process.returncode, said


def _wait_for_call(laptop: KilledLaptop, process: subprocess.Popen[str], number: int) -> bool:
    """Wait until the call of that number begins; return False when the command ended before."""
    while process.poll() is None:
        if laptop.called() > number:
            return True
        time.sleep(POLL_S)
    return False


def _wait_for_checkpoint(workspace: Path) -> None:
    deadline = time.monotonic() + LINE_TIMEOUT_S
    while not list(workspace.glob("runs/*/checkpoints/step_*/manifest.json")):
        if time.monotonic() > deadline:
            raise StepFailed(f"no checkpoint came in {workspace}")
        time.sleep(0.2)


def _end_all(workspace: Path) -> None:
    """Kill every process of every run, without waiting for it to save."""
    for run in (workspace / "runs").glob("2*"):
        processes.end(functools.partial(processes.carrying, f"RDTOPS_RUN={run.name}"))
