"""`inv drill training`: one training, killed at random moments with SIGKILL to every process of it, and started again
each time. It must end with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proofs.staging.ground import tiny_assets
from rdtops.contract.config import override, preset
from rdtops.contract.journal import Event, Journal, parse
from rdtops.contract.run import RunSpec, checkpoint_name
from rdtops.hostlib import manifest
from rdtops.hostlib.names import RunId
from rdtops.ui.repository import ROOT, Drilled, Say, StepFailed, make_tiny_assets

STARTING, TRAINING, SAVING = MOMENTS = ("while starting", "while training", "while saving")
SAME = "it ended with the same weights, EMA weights, moments and losses as the undisturbed one, bit for bit"
CHECKPOINT_EVERY_STEPS = 10
LIFE_TIMEOUT_S = 600.0
POLL_S = 0.002


@dataclass(frozen=True)
class KilledTraining:
    """The kills of one kind of moment."""

    moment: str
    kills: int
    half_written_checkpoints: int  # kills that left an unfinished checkpoint
    steps_done_again: int  # steps after the newest checkpoint, which were repeated


def drill(say: Say, *, kills: int = 0, only: str = "") -> Iterator[Drilled]:
    """Run the drill: 20 kills of the lab's training."""
    make_tiny_assets(say)
    yield drill_training(ROOT / ".lab" / "training-drill", tiny_assets(), kills or 20, say, only=only)


def drill_training(folder: Path, assets: Mapping[str, str], kills: int, say: Say, *, steps: int = 300,
                   processes: int = 2, only: str = "", seed: int = 0) -> Drilled:
    """Run the training. `assets`: the folders of the preset `tiny`, as in a RunSpec. All files are below `folder`."""
    begun = time.monotonic()
    left_alone = DrillSubject(prepared(folder, "left-alone", assets, steps, processes))
    left_alone.live()
    say(f"undisturbed: {steps} steps in {time.monotonic() - begun:.0f} s")
    killed = DrillSubject(prepared(folder, "killed", assets, steps, processes))
    chance = random.Random(seed)  # noqa: S311  # moments, no secrets
    for number, (moment, step) in enumerate(_moments(kills, steps, chance, only), 1):
        killed.live(_Blow(moment, step, chance, left_alone.start_s, left_alone.save_s))
        say(f"kill {number} of {kills}, {moment}: the Journal is at step {killed.last_step}")
    killed.live()
    rows = tuple(killed.struck(moment) for moment in MOMENTS if only in moment)
    done = sum(row.kills for row in rows)
    return Drilled(f"a training of {steps} steps, {processes} processes, killed {done} times, "
                   f"{time.monotonic() - begun:.0f} s", rows, tuple(differences(left_alone, killed, kills)), SAME)


@dataclass
class DrillSubject:
    """A run that is started repeatedly. Its Journal has its progress."""

    spec: RunSpec
    blows: list[KilledTraining] = field(default_factory=list)

    def live(self, blow: _Blow | None = None) -> None:
        """Start it, and wait until it ends, by itself or by the kill. Raise StepFailed when it fails by itself."""
        life = Life(self.spec)
        try:
            life.wait(lambda: blow is not None and blow.is_due(life))
        finally:
            life.kill()
        if not life.finished and blow:
            self.blows.append(KilledTraining(blow.moment, 1, len(life.unfinished_checkpoints),
                                             life.steps_after_checkpoint))

    def struck(self, moment: str) -> KilledTraining:
        of_it = [blow for blow in self.blows if blow.moment == moment]
        return KilledTraining(moment, len(of_it), sum(b.half_written_checkpoints for b in of_it),
                              sum(b.steps_done_again for b in of_it))

    @property
    def events(self) -> list[Event]:
        return Journal(Path(self.spec.paths.journal)).read()

    @property
    def last_step(self) -> int:
        return max((int(e.data["step"]) for e in self.events if e.kind == "step"), default=0)

    @property
    def losses(self) -> dict[int, float]:
        """Return the last loss of every step."""
        return {e.data["step"]: e.data["loss"] for e in self.events if e.kind == "step"}

    @property
    def learnt(self) -> dict[str, str]:
        """Return the MD5 of every file of tensors in the last checkpoint: weights, EMA weights, both moments."""
        last = Path(self.spec.paths.checkpoints) / checkpoint_name(self.spec.train.max_steps)
        sealed = manifest.read(last)
        return {f.path: f.md5 for f in sealed.files if f.path.endswith(".safetensors")} if sealed else {}

    @property
    def start_s(self) -> float:
        """Return the seconds from the launch to the first step, of an undisturbed run."""
        events = self.events
        first = next(e for e in events if e.kind == "step")
        return first.time_s - Path(self.spec.paths.config).stat().st_mtime

    @property
    def save_s(self) -> float:
        """Return the longest time from a step to the event of its checkpoint."""
        events = self.events
        return max(after.time_s - before.time_s for before, after in itertools.pairwise(events)
                   if after.kind == "checkpoint")


class Life:
    """The processes of one start of a run, in one process group, their output in train.log."""

    def __init__(self, spec: RunSpec, program: Sequence[str] = ()) -> None:
        self.spec = spec
        self._program = program or (sys.executable, "-m", "rdtops.trainer.train", str(spec.paths.config))
        self.began_s = time.monotonic()
        self._journal = Path(spec.paths.journal)
        self._journal_before = self._journal.stat().st_size if self._journal.exists() else 0
        self._processes = self._start()

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Wait until `is_over`, or until all processes have ended with 0."""
        while not is_over() and not self.finished:
            codes = [process.poll() for process in self._processes]
            if any(codes) or time.monotonic() - self.began_s > LIFE_TIMEOUT_S:
                log = Path(self.spec.paths.log).read_text(errors="replace")
                raise StepFailed(f"the training failed by itself, exit codes {codes}:\n{log[-1500:]}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """Kill all at once, as the kernel or a power cut would. Ended processes are ignored."""
        if any(process.poll() is None for process in self._processes):
            os.killpg(self._processes[0].pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()

    @property
    def codes(self) -> list[int | None]:
        """Return the exit codes by rank; None while it runs."""
        return [process.poll() for process in self._processes]

    @property
    def finished(self) -> bool:
        return all(process.poll() == 0 for process in self._processes)

    @property
    def events(self) -> list[Event]:
        """Return the events since this start."""
        if not self._journal.exists():
            return []
        with self._journal.open("rb") as file:
            file.seek(self._journal_before)
            return parse(file.read())[0]

    @property
    def step(self) -> int:
        return max((int(e.data["step"]) for e in self.events if e.kind == "step"), default=0)

    @property
    def steps_after_checkpoint(self) -> int:
        saved = [int(e.data["step"]) for e in Journal(self._journal).read() if e.kind == "checkpoint"]
        return max(self.step - max(saved, default=0), 0)

    @property
    def unfinished_checkpoints(self) -> list[Path]:
        return list(Path(self.spec.paths.checkpoints).glob("*.tmp"))

    def _start(self) -> list[subprocess.Popen[bytes]]:
        """Start the ranks as rdtops.trainer.process_group does, without its own start-up time."""
        world = self.spec.train.num_processes
        shared = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                  "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        started: list[subprocess.Popen[bytes]] = []
        with Path(self.spec.paths.log).open("ab") as log:
            for rank in range(world):
                started.append(subprocess.Popen(
                    self._program, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    process_group=started[0].pid if started else 0,
                    env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
        return started


class _Blow:
    """The moment of a kill: during the start, or after `step` during a step or a save."""

    def __init__(self, moment: str, step: int, chance: random.Random, start_s: float, save_s: float) -> None:
        self.moment, self._step = moment, step
        self._delay_s = chance.random() * (start_s if moment == STARTING else save_s)
        self._armed_s: float | None = None

    def is_due(self, life: Life) -> bool:
        if self._armed_s is None and self._is_here(life):
            self._armed_s = life.began_s if self.moment == STARTING else time.monotonic()
        return self._armed_s is not None and time.monotonic() >= self._armed_s + self._delay_s

    def _is_here(self, life: Life) -> bool:
        if self.moment == SAVING:  # check first what changes faster
            return bool(life.unfinished_checkpoints) and life.step >= self._step
        return self.moment == STARTING or life.step >= self._step


def _moments(kills: int, steps: int, chance: random.Random, only: str) -> list[tuple[str, int]]:
    """Return the kills: kinds in turn, and growing steps, so that a run progresses between kills; the last one comes
    before the end."""
    kinds = list(itertools.islice(itertools.cycle(m for m in MOMENTS if only in m), kills))
    chance.shuffle(kinds)
    last = max(steps - 2 * CHECKPOINT_EVERY_STEPS, 1)
    return list(zip(kinds, sorted(chance.randint(1, last) for _ in kinds), strict=True))


def differences(left_alone: DrillSubject, killed: DrillSubject, kills: int = 0) -> list[str]:
    """Return the differences of the disturbed training from the undisturbed one."""
    found = [f"{path}: its MD5 is not that of the undisturbed training"
             for path, md5 in left_alone.learnt.items() if killed.learnt.get(path) != md5]
    steps = left_alone.losses.keys() | killed.losses.keys()
    others = [s for s in sorted(steps) if left_alone.losses.get(s) != killed.losses.get(s)]
    if others:
        found.append(f"the loss differs in {len(others)} steps, first in step {others[0]}")
    if not left_alone.learnt:
        found.append("the undisturbed training has no last checkpoint")
    if len(killed.blows) != kills:
        found.append(f"only {len(killed.blows)} of {kills} kills came before the end")
    return found


def prepared(folder: Path, name: str, assets: Mapping[str, str], steps: int, processes: int) -> RunSpec:
    """Prepare a run as `inv train` does, in a new folder."""
    settings = [f"max_steps={steps}", f"num_processes={processes}", f"checkpoint_every_steps={CHECKPOINT_EVERY_STEPS}",
                "checkpoints_total_limit=2", "sample_every_steps=0", "loader_workers=1"]
    spec = RunSpec(RunId(name), "here", "", str(folder), str(ROOT), "drill", assets, override(preset("tiny"), settings))
    shutil.rmtree(spec.paths.root, ignore_errors=True)
    Path(spec.paths.checkpoints).mkdir(parents=True)
    Path(spec.paths.config).write_text(spec.to_json())
    return spec


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
