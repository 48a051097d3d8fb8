"""Link phases: the commands during which the link fails, how to see that they run, and the conditions afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proofs.staging.observer import Observer
from proofs.staging.typed import Laptop, Typed
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
BIG_BYTES = 4_000_000  # of a file in transfer
LOGIN_S = 20.0  # connect_timeout_s of a hop
NOTICED_S = 10.0 + 15.0  # stream.PING_AFTER_S + stream.PING_S: silence, then a ping of the hop
NEWS_S = 30.0 + 2 * 5.0  # news.ANSWER_S + connection.BLAME_S for each hop
TRANSFER_S = 30.0 + 2 * 5.0  # session.SILENCE_S + session.PING_S for each hop


class LinkPhase:
    """One `inv` command. `silence_s`: the limit to notice a silent link."""

    name = ""
    silence_s = NOTICED_S
    reconnects = False  # it reconnects by itself
    is_endless = False

    def __init__(self, lab: Lab, laptop: Laptop) -> None:
        self.lab, self.laptop = lab, laptop

    @property
    def line(self) -> str:
        return f"{self.name} --host {HOST}"

    def reset(self) -> None:
        """Prepare each repetition, so that there is something to do."""

    def is_under_way(self, typed: Typed) -> bool:
        """Tell whether the operation has begun."""
        raise NotImplementedError

    def news(self, typed: Typed) -> int:
        """Return the amount of output of a continuing phase."""
        return len(typed.out)

    @contextlib.contextmanager
    def observed(self) -> Iterator[list[str]]:
        """Add to the list the problems seen at any time."""
        yield []

    def has_come_right(self, rerun: Typed) -> list[str]:
        """Return the problems that remain after the command was repeated."""
        return [] if rerun.code == 0 else [f"typed again it ends with exit {rerun.code}: {rerun.said[-600:]}"]


class Moving(LinkPhase):
    """A transfer from `_source` to `_target`; `_expected` is a file of the digests that may appear there."""

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
    """A deploy of weights that are large enough to be interrupted."""

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
        """Check the repeated command: with a running training there is a finding, and so exit 1, but all checks must
        run."""
        found = [] if rerun.code in (0, 1) else [f"typed again it ends with exit {rerun.code}: {rerun.said[-600:]}"]
        asked = ("workspace", "disk", "md5 ")
        return found or [f"typed again it does not ask {name}" for name in asked if name not in rerun.out]


class Launch(LinkPhase):
    """`inv train`, interrupted between the first file of the run folder and the message that it runs."""

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
    """`inv watch` of a training that saves a checkpoint every few seconds."""

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
    """`inv fetch-results` of a run with a large checkpoint."""

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


# --- objects of the commands ---

def heavy_weights(folder: Path, tiny: Path) -> Path:
    """Make the tiny weights with many random bytes beside them, so that a transfer takes long enough."""
    heavy = folder / HEAVY
    heavy.mkdir(parents=True, exist_ok=True)
    for path in tiny.iterdir():
        shutil.copy(path, heavy)
    with (heavy / "ballast.bin").open("wb") as file:
        for _ in range(HEAVY_BYTES // 1_000_000):
            file.write(os.urandom(1_000_000))
    return heavy


def ended_run(lab: Lab, heavy: Path) -> RunSpec:
    """Make an ended run, with one valid checkpoint as large as `heavy`."""
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
    """Return the runs with a live process on the host, by the environment variable of each process."""
    found = set()
    for pid in lab.sessions(HOST):
        with contextlib.suppress(OSError):
            marks = (lab_processes.PROC / str(pid) / "environ").read_bytes().split(b"\0")
            found |= {mark.decode().partition("=")[2] for mark in marks if mark.startswith(b"RDTOPS_RUN=")}
    return found


def end_trainings(lab: Lab) -> None:
    """Return all processes of the host's sessions."""
    lab_processes.end_all(lambda: lab.sessions(HOST))


@dataclass(frozen=True)
class TrainingSeen:
    """The state of a training by its Journal."""

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
    """Write the expected digests for an Observer."""
    return json.dumps({p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()})


def _is_growing(target: Path) -> bool:
    """Tell whether a part of a large file exists; one written in ranges has its full length from the beginning."""
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
