"""`inv drill transfer`: transfers killed at random moments, each repeated until it is done, while an observer watches
the target. All must end with equal digests, and no wrong file may ever appear under a final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proofs.staging import small_disk
from proofs.staging.observer import Observer
from proofs.wan.wan_lab import HOST, WanLab
from rdtops.hostlib import processes
from rdtops.lab.site import JUMP, Lab
from rdtops.ui.repository import ROOT, Drilled, Say, StepFailed

PROGRAM = [sys.executable, "-m", "rdtops.transfer"]
LINE = "custom:4:400:0"  # slow enough that most kills come during the transfer
RUN_TIMEOUT_S = 120.0
TRIES = 12  # runs within which a transfer must succeed
TRIALS = 3  # trials for each requested kill: a transfer may end before it
MB = 1_000_000


@dataclass(frozen=True)
class Ground:
    """The place of a drill: how to start a transfer, and what can be killed."""

    prefix: Sequence[str]
    route: Sequence[str]
    host: str
    receivers: Callable[[], set[int]]
    jump_connections: Callable[[], set[int]]
    sent_bytes: Callable[[], int] | None = None  # bytes sent by the laptop; None where others use the same line


@dataclass(frozen=True)
class Hit:
    """The results of the transfers with one fault."""

    fault: str
    killed: int  # transfers whose first run failed
    unharmed: int  # done before or despite the fault
    runs: int  # runs needed after the kills, in total
    converged: int
    wrong_files: int  # seen under a final name, at any time
    sent_twice_percent: float | None  # the median; None where it cannot be measured

    @property
    def passed(self) -> bool:
        return self.converged == self.killed + self.unharmed and not self.wrong_files


def drill(say: Say, *, kills: int = 0, only: str = "") -> Iterator[Drilled]:
    """Run the drill: 200 kills, on a line slow enough that most of them come during a transfer."""
    folder = ROOT / ".lab" / "drill"
    with WanLab(ROOT / ".lab" / "wan") as lab:
        lab.up(LINE)  # no other program uses this lab or its folder
        if folder.exists():  # left by a drill that was killed itself
            small_disk.unmount(folder / "to")
            shutil.rmtree(folder)
        yield drill_transfers(wan_ground(lab), folder, kills or 200, say, size_bytes=64 * MB, only=only)


def wan_ground(lab: WanLab) -> Ground:
    return Ground(lab.laptop, ["--ssh-config", str(lab.ssh_config)], HOST, lab.receivers, lab.jump_connections,
                  lambda: lab.sent_bytes)


def loopback_ground(lab: Lab) -> Ground:
    return Ground([], ["--ssh-config", str(lab.ssh_config)], "lab", lambda: lab.sessions("lab"),
                  lambda: lab.connections(JUMP))


def drill_transfers(ground: Ground, folder: Path, kills: int, say: Say, *, size_bytes: int, only: str = "",
                    seed: int = 0) -> Drilled:
    """Run every fault in turn, until each has killed its share."""
    with small_disk.small_disk(folder / "to", size_bytes * 2) as disk_is_small:
        if not disk_is_small:
            say("only root can mount a small disk: that fault is skipped")
        field_ = _Field(ground, folder, size_bytes, random.Random(seed), say)  # noqa: S311  # moments, no secrets
        every = [DrillSender(), DrillReceiver(), JumpConnection(), *([FullDisk()] if disk_is_small else [])]
        faults = [fault for fault in every if only in fault.name]
        share, left = divmod(kills, max(len(faults), 1))
        rows = tuple(field_.drill(fault, share + (number < left)) for number, fault in enumerate(faults))
    title = f"{sum(row.killed for row in rows)} transfers of {size_bytes / MB:.0f} MB, killed and run again"
    return Drilled(title, rows, tuple(dict.fromkeys(field_.problems)))


# --- faults ---

class TransferFault:
    """A fault at a given moment; `strike` returns whether there was anything to hit."""

    name = ""

    def strike(self, trial: TransferTrial) -> bool:
        raise NotImplementedError

    def mend(self, trial: TransferTrial) -> None:
        """Repair the fault before the transfer is repeated."""


class DrillSender(TransferFault):
    name = "sender killed"

    def strike(self, trial: TransferTrial) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trial.process.pid, signal.SIGKILL)
        return True


class DrillReceiver(TransferFault):
    name = "receiver killed"

    def strike(self, trial: TransferTrial) -> bool:
        return _killed(trial.ground.receivers())


class JumpConnection(TransferFault):
    name = "jump connection killed"

    def strike(self, trial: TransferTrial) -> bool:
        return _killed(trial.ground.jump_connections())


class FullDisk(TransferFault):
    """Fill the disk, except a random share of the space that the transfer still needs."""

    name = "disk full"

    def strike(self, trial: TransferTrial) -> bool:
        small_disk.fill(trial.target.parent, int(trial.chance.random() * trial.size_bytes / 2))
        return True

    def mend(self, trial: TransferTrial) -> None:
        small_disk.make_room(trial.target.parent)


def _killed(pids: set[int]) -> bool:
    return processes.send(pids, signal.SIGKILL)


# --- trials ---

@dataclass
class TransferTrial:
    """One transfer: its target, its first run, and the runs it needed."""

    ground: Ground
    target: Path
    size_bytes: int
    chance: random.Random
    process: subprocess.Popen[str]
    killed: bool = False
    runs: int = 0
    converged: bool = False
    wrong: list[str] = field(default_factory=list)
    said: str = ""
    sent_bytes: int = 0


class _Field:
    """The files that are sent repeatedly, and the duration and bytes of an undisturbed transfer."""

    def __init__(self, ground: Ground, folder: Path, size_bytes: int, chance: random.Random, say: Say) -> None:
        self._ground = ground
        self._to = folder / "to"
        self._source = folder / "source"
        self._expected = folder / "expected.json"
        self._chance = chance
        self._say = say
        self.problems: list[str] = []
        self._make_source(size_bytes)
        self._size_bytes = sum(path.stat().st_size for path in self._source.iterdir())
        undisturbed = [self._undisturbed() for _ in range(3)][1:]  # the first has to read the digests
        self._whole_s = min(seconds for seconds, _ in undisturbed)
        self._whole_bytes = statistics.median(sent for _, sent in undisturbed)

    def drill(self, fault: TransferFault, kills: int) -> Hit:
        trials: list[TransferTrial] = []
        while sum(trial.killed for trial in trials) < kills and len(trials) < TRIALS * kills:
            trials.append(self._trial(fault, len(trials)))
        row = self._told(fault, trials)
        self._say(f"{row.fault}: {row.killed} killed, {row.converged} of {len(trials)} converged, "
                  f"{row.wrong_files} wrong files seen")
        return row

    def _trial(self, fault: TransferFault, number: int) -> TransferTrial:
        target = self._fresh_target(with_old_files=number % 2 == 1)
        before_bytes = self._line_bytes()
        with Observer(target, self._expected) as observer:
            trial = TransferTrial(self._ground, target, self._size_bytes, self._chance, self._started(target))
            self._hit(fault, trial)
            fault.mend(trial)
            while not trial.converged and trial.runs < TRIES:
                self._run_again(trial)
            trial.wrong = observer.end().wrong
        trial.sent_bytes = self._line_bytes() - before_bytes
        if trial.converged and not _same(self._source, target):
            trial.converged, trial.said = False, "it reported success, but the files differ"
        return trial

    def _hit(self, fault: TransferFault, trial: TransferTrial) -> None:
        """Strike at a random moment, or as soon after it as there is something to hit."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            trial.process.wait(self._chance.random() * self._whole_s)
        while trial.process.poll() is None and not fault.strike(trial):
            time.sleep(0.005)
        trial.said = trial.process.communicate(timeout=RUN_TIMEOUT_S)[0]
        trial.killed = trial.process.returncode != 0
        trial.converged = not trial.killed

    def _run_again(self, trial: TransferTrial) -> None:
        trial.runs += 1
        process = self._started(trial.target)
        trial.said = process.communicate(timeout=RUN_TIMEOUT_S)[0]
        trial.converged = process.returncode == 0
        if not trial.converged:
            time.sleep(0.2)  # the porter of the killed one may not have noticed yet

    def _told(self, fault: TransferFault, trials: Sequence[TransferTrial]) -> Hit:
        killed = [trial for trial in trials if trial.killed]
        twice = [100 * (trial.sent_bytes - self._whole_bytes) / self._size_bytes for trial in killed]
        self.problems += [p for t in trials for p in [*t.wrong, *([] if t.converged else [t.said.strip()[-300:]])]]
        return Hit(fault.name, len(killed), len(trials) - len(killed), sum(t.runs for t in trials),
                   sum(t.converged for t in trials), sum(len(t.wrong) for t in trials),
                   round(statistics.median(twice), 1) if twice and self._ground.sent_bytes else None)

    def _undisturbed(self) -> tuple[float, int]:
        target = self._fresh_target(with_old_files=False)
        before_bytes, start_s = self._line_bytes(), time.monotonic()
        process = self._started(target)
        said = process.communicate(timeout=RUN_TIMEOUT_S)[0]
        if process.returncode or not _same(self._source, target):
            raise StepFailed(f"an undisturbed transfer fails: {said.strip()[-500:]}")
        return time.monotonic() - start_s, self._line_bytes() - before_bytes

    def _started(self, target: Path) -> subprocess.Popen[str]:
        ground = self._ground
        words = [*ground.prefix, *PROGRAM, *ground.route, str(self._source), f"{ground.host}:{target}"]
        return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)

    def _line_bytes(self) -> int:
        return self._ground.sent_bytes() if self._ground.sent_bytes else 0

    def _fresh_target(self, *, with_old_files: bool) -> Path:
        """Return a target, perhaps with other files under the final names: they may be replaced, but not written
        into."""
        target = self._to / "target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in self._source.iterdir() if with_old_files else ():
            (target / path.name).write_text("of an earlier transfer")
        return target

    def _make_source(self, size_bytes: int) -> None:
        self._source.mkdir()
        sizes = {"big": size_bytes * 7 // 10, "half": size_bytes * 3 // 10, "empty": 0,
                 **{f"small {number}": 20_000 for number in range(20)}}
        for name, size in sizes.items():
            (self._source / name).write_bytes(os.urandom(size))
        digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in self._source.iterdir()}
        self._expected.write_text(json.dumps(digests))


def _same(one: Path, other: Path) -> bool:
    """Compare byte for byte, and check that no other file remains."""
    return subprocess.run(["diff", "-rq", one, other], capture_output=True, check=False).returncode == 0
