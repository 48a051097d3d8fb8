"""What is typed when the link is hit, how one sees that it is under way, and what must be true of it afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proofs.drills.observer import Observer
from proofs.drills.typed import Laptop, Typed
from rdtops.contract.config import override, preset
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.hostlib import manifest
from rdtops.hostlib.files import OURS
from rdtops.hostlib.names import RunId
from rdtops.lab import lab_processes
from rdtops.lab.site import Lab

HOST = "lab"
HEAVY = "rdt-heavy"
HEAVY_BYTES = 192_000_000  # most of a second on the loopback
BIG_BYTES = 4_000_000  # of a file that is under way
LOGIN_S = 20.0  # connect_timeout_s of a hop
NOTICED_S = 10.0 + 15.0  # stream.PING_AFTER_S + stream.PING_S: silence, then a question to the hop
NEWS_S = 30.0 + 2 * 5.0  # news.ANSWER_S + connection.BLAME_S for each hop
TRANSFER_S = 30.0 + 2 * 5.0  # session.SILENCE_S + session.PING_S for each hop


class LinkPhase:
    """One `inv` line. `silence_s` is how long it may take it to notice a link that says nothing more."""

    name = ""
    silence_s = NOTICED_S
    reconnects = False  # it takes a lost link up again by itself
    is_endless = False

    def __init__(self, lab: Lab, laptop: Laptop) -> None:
        self.lab, self.laptop = lab, laptop

    @property
    def line(self) -> str:
        return f"{self.name} --host {HOST}"

    def reset(self) -> None:
        """Before each time, so that there is something to do."""

    def is_under_way(self, typed: Typed) -> bool:
        """Whether what is to be hit has begun."""
        raise NotImplementedError

    def news(self, typed: Typed) -> int:
        """How much it has shown, of a phase that goes on."""
        return len(typed.out)

    @contextlib.contextmanager
    def observed(self) -> Iterator[list[str]]:
        """Fills the list with what was wrong at any time of it."""
        yield []

    def has_come_right(self, rerun: Typed) -> list[str]:
        """What is still wrong after it was typed again."""
        return [] if rerun.code == 0 else [f"typed again it ends with exit {rerun.code}: {rerun.said[-600:]}"]


class Moving(LinkPhase):
    """Bytes go from `_source` to `_target`; `_expected` is a file of the digests that may be seen there."""

    silence_s = TRANSFER_S
    _source: Path
    _target: Path
    _expected: Path

    def is_under_way(self, typed: Typed) -> bool:  # noqa: ARG002
        return _is_growing(self._target)

    @contextlib.contextmanager
    def observed(self) -> Iterator[list[str]]:
        with _watched(self._target, self._expected) as wrong:
            yield wrong

    def has_come_right(self, rerun: Typed) -> list[str]:
        return [*super().has_come_right(rerun), *_differences(self._source, self._target)]


class Deploy(Moving):
    """Of weights that are heavy enough for a moment in the middle."""

    name = "deploy"

    def __init__(self, lab: Lab, laptop: Laptop, heavy: Path) -> None:
        super().__init__(lab, laptop)
        self._source = heavy
        self._target = lab.home(HOST) / "rdtops" / "assets" / HEAVY
        self._expected = laptop.folder / "heavy.json"
        self._expected.write_text(_digests(heavy))

    @property
    def line(self) -> str:
        return f"deploy --host {HOST} --only weights --set pretrained={HEAVY}"

    def reset(self) -> None:
        shutil.rmtree(self._target, ignore_errors=True)
        self._target.mkdir(parents=True)


class PhaseCheck(LinkPhase):
    name = "check"

    def reset(self) -> None:
        self._before = self.lab.sessions(HOST)

    def is_under_way(self, typed: Typed) -> bool:  # noqa: ARG002
        return bool(self.lab.sessions(HOST) - self._before)

    def has_come_right(self, rerun: Typed) -> list[str]:
        """With a training under way there is a finding, and so exit 1: it must say so, of each check."""
        found = [] if rerun.code in (0, 1) else [f"typed again it ends with exit {rerun.code}: {rerun.said[-600:]}"]
        asked = ("workspace", "disk", "md5 ")
        return found or [f"typed again it does not ask {name}" for name in asked if name not in rerun.out]


class Launch(LinkPhase):
    """`inv train`, cut between the first file of the run folder and the news that it runs."""

    name = "train"

    @property
    def line(self) -> str:
        return f"train --host {HOST} --set max_steps=100000 --set num_processes=1"

    @property
    def _runs(self) -> Path:
        return self.lab.home(HOST) / "rdtops" / "runs"

    def reset(self) -> None:
        end_trainings(self.lab)
        shutil.rmtree(self._runs, ignore_errors=True)

    def is_under_way(self, typed: Typed) -> bool:  # noqa: ARG002
        return self._runs.exists() and any(self._runs.iterdir())

    def has_come_right(self, rerun: Typed) -> list[str]:
        running = trainings(self.lab)
        end_trainings(self.lab)
        return [] if len(running) == 1 else [f"typed again, {len(running)} trainings run: {rerun.said[-600:]}"]


class Watch(LinkPhase):
    """Of a training that saves a checkpoint every few seconds."""

    name = "watch"
    silence_s = NEWS_S
    reconnects = is_endless = True

    def is_under_way(self, typed: Typed) -> bool:
        return "checkpoint step_" in typed.out

    def has_come_right(self, rerun: Typed) -> list[str]:
        return [] if self.is_under_way(rerun) else [f"typed again it shows no checkpoint: {rerun.said[-600:]}"]


class Logs(LinkPhase):
    name = "logs"
    silence_s = NEWS_S
    reconnects = is_endless = True

    @property
    def line(self) -> str:
        return f"logs --host {HOST} --follow"

    def is_under_way(self, typed: Typed) -> bool:
        return "saved step_" in typed.out

    def has_come_right(self, rerun: Typed) -> list[str]:
        return [] if self.is_under_way(rerun) else [f"typed again it shows nothing: {rerun.said[-600:]}"]


class Fetch(Moving):
    """Of a run whose checkpoint is heavy."""

    name = "fetch-results"

    def __init__(self, lab: Lab, laptop: Laptop, heavy: Path) -> None:
        super().__init__(lab, laptop)
        self._spec = ended_run(lab, heavy)
        self._source = Path(self._spec.paths.checkpoints) / "step_000001"
        self._target = laptop.results / HOST / self._spec.run_id / "checkpoints" / "step_000001"
        self._expected = laptop.folder / "fetched.json"
        self._expected.write_text(_digests(self._source))

    @property
    def line(self) -> str:
        return f"fetch-results --host {HOST} --run {self._spec.run_id} --into {self.laptop.results}"

    def reset(self) -> None:
        shutil.rmtree(self.laptop.results, ignore_errors=True)
        self._target.mkdir(parents=True)


# --- what they act upon ---

def heavy_weights(folder: Path, tiny: Path) -> Path:
    """The tiny weights with so many random bytes beside them that a transfer takes its time."""
    heavy = folder / HEAVY
    heavy.mkdir(parents=True, exist_ok=True)
    for path in tiny.iterdir():
        shutil.copy(path, heavy)
    with (heavy / "ballast.bin").open("wb") as file:
        for _ in range(HEAVY_BYTES // 1_000_000):
            file.write(os.urandom(1_000_000))
    return heavy


def ended_run(lab: Lab, heavy: Path) -> RunSpec:
    """A run that has ended, with one valid checkpoint that is as heavy as `heavy`."""
    workspace = lab.home(HOST) / "rdtops"
    spec = RunSpec(RunId("20260101-000000-tiny-0000"), HOST, "", str(workspace), "", "drill", {},
                   override(preset("tiny"), ["max_steps=1"]))
    root, saved = Path(spec.paths.root), Path(spec.paths.checkpoints) / "step_000001"
    shutil.copytree(heavy, saved, dirs_exist_ok=True)
    sealed = manifest.seal(saved)
    (root / "config.json").write_text(spec.to_json())
    (root / "exit").write_text("0\n")
    (root / "train.log").write_text("a training of the drill\n")
    journal = Journal(root / "journal.jsonl")
    journal.append("launched", launcher="drill", pid=0, boot_id="")
    journal.append("checkpoint", step=1, name=saved.name, size_bytes=sealed.size_bytes, digest=sealed.digest,
                   heldout_loss=None)
    journal.append("finished", step=1, loss=1.0)
    return spec


def trainings(lab: Lab) -> set[str]:
    """The runs of which a process lives on the host, by the mark that each process of a run carries."""
    found = set()
    for pid in lab.sessions(HOST):
        with contextlib.suppress(OSError):
            marks = (lab_processes.PROC / str(pid) / "environ").read_bytes().split(b"\0")
            found |= {mark.decode().partition("=")[2] for mark in marks if mark.startswith(b"RDTOPS_RUN=")}
    return found


def end_trainings(lab: Lab) -> None:
    """All processes of the host's sessions, whatever they are."""
    lab_processes.end_all(lambda: lab.sessions(HOST))


@dataclass(frozen=True)
class TrainingSeen:
    """What the Journal of a training says of it."""

    step: int
    starts: int
    troubles: int  # ends, failed checkpoints, warnings


def state_of_training(lab: Lab, run_id: str) -> TrainingSeen:
    events = Journal(lab.home(HOST) / "rdtops" / "runs" / run_id / "journal.jsonl").read()
    return TrainingSeen(
        max((int(e.data["step"]) for e in events if e.kind == "step"), default=0),
        sum(e.kind == "started" for e in events),
        sum(e.kind in ("failed", "stopped", "finished", "checkpoint_failed", "warning") for e in events))


def _digests(folder: Path) -> str:
    """For an Observer."""
    return json.dumps({p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()})


def _is_growing(target: Path) -> bool:
    """A part of a large file lies there; a file that is written in ranges has its full length from the beginning."""
    with contextlib.suppress(OSError):
        return any(p.name.startswith(OURS) and p.stat().st_blocks * 512 > BIG_BYTES for p in target.iterdir())
    return False


@contextlib.contextmanager
def _watched(target: Path, expected: Path) -> Iterator[list[str]]:
    wrong: list[str] = []
    with Observer(target, expected) as observer:
        yield wrong
        wrong += observer.end().wrong


def _differences(source: Path, target: Path) -> list[str]:
    return [f"{path.name} is not what it is at its source" for path in source.rglob("*") if path.is_file()
            and (not (there := target / path.relative_to(source)).exists()
                 or there.read_bytes() != path.read_bytes())]
