"""`inv drill disk`: another user fills the disk of the host's workspace, during a deploy, a save, and every other write
to it; then frees the space again.

Each time: the failure names the file system, the space needed and free, and the next command; valid files stay valid;
and once there is space the same command, or the training, completes correctly to the byte.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proofs.drills import is_wanted
from proofs.drills.training_drill import DrillSubject, Life, differences, prepared
from proofs.staging import link_phases
from proofs.staging.ground import lab_in, named_assets
from proofs.staging.link_phases import HOST, Deploy
from proofs.staging.small_disk import fill, make_room, small_disk, unmount
from proofs.staging.typed import Laptop, Typed
from rdtops.contract.journal import Event
from rdtops.hostlib import manifest
from rdtops.lab.site import Lab
from rdtops.ui.repository import ROOT, Drilled, Say, StepFailed

MB = 1_000_000
DISK_BYTES = 480 * MB  # `inv check` wants 200 MB for videos
TRAINING_DISK_BYTES = 48 * MB  # a checkpoint has 4.5 MB; three of them at once
LITTLE_BYTES = 1 * MB  # less than a checkpoint has, more than a Journal
STEPS = 40
WITHOUT_ROOM_S = 1.5
PATIENCE_S = 240.0
SAID = 160  # characters of a message that the table shows
VERDICT = "each time the file system was named; nothing valid was lost; with space again all completed, to the byte"


@dataclass(frozen=True)
class Filled:
    """One operation on a full disk: its message, and its result once there was space."""

    during: str
    disk: str
    said: str
    then: str
    passed: bool


def drill(say: Say, *, kills: int = 0, only: str = "") -> Iterator[Drilled]:  # noqa: ARG001
    """Run the drill: some minutes. It needs root, because it mounts a disk."""
    folder = ROOT / ".lab" / "disk-drill"
    for disk in (folder / "training", folder / "lab" / HOST / "home" / "rdtops"):  # left by a killed drill
        unmount(disk)
    shutil.rmtree(folder, ignore_errors=True)
    yield drill_disk(folder, named_assets(say), say, only=only)


def drill_disk(folder: Path, assets: Mapping[str, str], say: Say, *, only: str = "") -> Drilled:
    """Run the rows whose `during` is requested."""
    begun_s = time.monotonic()
    ground = _Ground(folder, say, only)
    trains, deploys = (any(is_wanted(row, only) for row in rows) for rows in (TRAINING, DEPLOYING))
    with small_disk(folder / "training", TRAINING_DISK_BYTES) as mounted:
        if not mounted:
            say("only root can mount a disk: this drill is skipped")
            return Drilled("no disk can be mounted here, so none was filled", (), ("run it as root",))
        if trains:
            _Training(folder, assets, ground).rows()
    if deploys:
        with lab_in(folder / "lab") as lab, small_disk(lab.home(HOST) / "rdtops", DISK_BYTES):
            _Deploying(lab, folder, assets, ground).rows()
    return Drilled(f"a disk filled during {len(ground.filled)} things, {time.monotonic() - begun_s:.0f} s",
                   tuple(ground.filled), tuple(ground.problems), VERDICT)


class _Ground:
    """The rows and their problems."""

    def __init__(self, folder: Path, say: Say, only: str) -> None:
        self.filled: list[Filled] = []
        self.problems: list[str] = []
        self._folder, self._say, self._only = folder, say, only

    def row(self, during: str, disk: str, work: Callable[[list[str]], tuple[str, str]]) -> None:
        """Run one row. `work` returns the message and the result, and adds problems to a list."""
        if not is_wanted(during, self._only):
            return
        wrong: list[str] = []
        said, then = work(wrong)
        brief = " ".join(said.replace(f"{self._folder}/", "").split())
        self.filled.append(Filled(during, disk, brief[:SAID], then, not wrong))
        self.problems += [f"{during}, {disk}: {one}" for one in wrong]
        self._say(f"{during}, {disk}: {then}" + "".join(f"\n    {one}" for one in wrong))


# --- a training ---

SAVE, LINES, END = "a checkpoint", "log, Journal and curves", "the last checkpoint"
TRAINING = (SAVE, LINES, END)


class _Training:
    """Compare a training on a small disk with an undisturbed one."""

    def __init__(self, folder: Path, assets: Mapping[str, str], ground: _Ground) -> None:
        roles = {"dataset": assets["libero_tiny"], "pretrained": assets["rdt-tiny"],
                 "text_encoder": assets["t5-tiny"], "vision_encoder": assets["siglip-tiny"]}
        self._disk, self._ground, self._roles = folder / "training", ground, roles
        self._left_alone = DrillSubject(prepared(folder / "left-alone", "left-alone", roles, STEPS, 1))
        self._left_alone.live()

    def rows(self) -> None:
        self._ground.row(SAVE, "fills up", self._during_a_save)
        self._ground.row(LINES, "no byte left for a while", self._without_room_for_a_line)
        self._ground.row(END, "no byte left", self._to_the_end)

    def _during_a_save(self, wrong: list[str]) -> tuple[str, str]:
        subject = self._new("save")
        with _living(subject) as life:
            _until(life, lambda: _told(subject, "checkpoint"))
            fill(self._disk, LITTLE_BYTES)
            _until(life, lambda: _told(subject, "checkpoint_failed"))
            wrong += _damaged(subject)
            make_room(self._disk)
            _until(life, lambda: False)
        said = str(_told(subject, "checkpoint_failed")[0].data["error"]) if _told(subject, "checkpoint_failed") else ""
        wrong += self._unnamed(said, "MB are needed", "MB are free") + self._unlike(subject)
        return said, "it continued; the next save succeeded; the same bytes at the end"

    def _without_room_for_a_line(self, wrong: list[str]) -> tuple[str, str]:
        subject = self._new("lines")
        with _living(subject) as life:
            _until(life, lambda: _told(subject, "checkpoint"))
            fill(self._disk, 0)
            time.sleep(WITHOUT_ROOM_S)
            wrong += [] if life.codes == [None] else [f"the training ended with {life.codes}"]
            make_room(self._disk)
            _until(life, lambda: False)
        steps = [e.data["step"] for e in subject.events if e.kind == "step"]
        told = [e.data["step"] for e in self._left_alone.events if e.kind == "step"]
        curves = [json.loads(line)["step"] for line in Path(subject.spec.paths.metrics).read_text().splitlines()]
        wrong += [] if sorted(set(steps)) == sorted(set(told)) and len(steps) == len(set(steps)) else [
            f"the Journal does not have each step once: {steps}"]
        wrong += [] if set(told) <= set(curves) else ["metrics.jsonl lacks steps"]
        wrong += _unreadable(subject) + self._unlike(subject)
        return "", "every line was written later; the same bytes at the end"

    def _to_the_end(self, wrong: list[str]) -> tuple[str, str]:
        subject = self._new("end")
        with _living(subject) as life:
            _until(life, lambda: len(_told(subject, "checkpoint")) >= 2)
            fill(self._disk, 0)
            _until(life, lambda: False)
            wrong += [] if life.codes == [1] else [f"it ended with {life.codes}"]
        said = str(_told(subject, "failed")[-1].data["error"]) if _told(subject, "failed") else ""
        remedy = str(_told(subject, "failed")[-1].data["remedy"]) if _told(subject, "failed") else ""
        wrong += self._unnamed(said, "MB are needed", "MB are free") + _damaged(subject) + _unreadable(subject)
        wrong += [] if "inv train --resume end" in remedy else [f"the next command is {remedy!r}"]
        make_room(self._disk)
        subject.live()
        wrong += self._unlike(subject)
        return said, "it failed with a message; resumed, the same bytes at the end"

    def _new(self, name: str) -> DrillSubject:
        return DrillSubject(prepared(self._disk, name, self._roles, STEPS, 1))

    def _unnamed(self, said: str, *words: str) -> list[str]:
        return [f"{word!r} is missing: {said!r}" for word in (f"no space on {self._disk} ", *words) if word not in said]

    def _unlike(self, subject: DrillSubject) -> list[str]:
        return differences(self._left_alone, subject)


# --- a deploy, and the check before a training ---

CODE, DATA, WEIGHTS, CHECK = "deploy of code", "deploy of data", "deploy of weights", "inv check"
DEPLOYING = (CODE, DATA, WEIGHTS, CHECK)


class _Deploying:
    def __init__(self, lab: Lab, folder: Path, assets: Mapping[str, str], ground: _Ground) -> None:
        heavy = link_phases.heavy_weights(folder, Path(assets["rdt-tiny"]))
        self._laptop = Laptop(folder / "laptop", lab, {**assets, link_phases.HEAVY: str(heavy)})
        self._disk, self._ground = lab.home(HOST) / "rdtops", ground
        self._weights = Deploy(lab, self._laptop, heavy)

    def rows(self) -> None:
        self._ground.row(CODE, "full before", lambda wrong: self._full_before("code", wrong))
        self._ground.row(DATA, "full before", lambda wrong: self._full_before("data", wrong))
        self._ground.row(WEIGHTS, "fills up", self._fills_up)
        self._ground.row(CHECK, "too small for the checkpoints", self._foreseen)

    def _full_before(self, part: str, wrong: list[str]) -> tuple[str, str]:
        fill(self._disk, 20_000)
        line = f"deploy --host {HOST} --only {part}"
        refused = self._laptop.type(line)
        wrong += self._unsaid(refused, 1, f"on {self._disk}", "more are needed", "are free", "-> df -h")
        make_room(self._disk)
        again = self._laptop.type(line)
        wrong += [] if again.code == 0 else [f"typed again: {again.said[-400:]}"]
        return _error_of(refused), "typed again it succeeded"

    def _fills_up(self, wrong: list[str]) -> tuple[str, str]:
        self._laptop.good(f"deploy --host {HOST} --only code")
        self._weights.reset()
        with self._weights.observed() as seen:
            cut = self._laptop.start(self._weights.line)
            cut.until(lambda: self._weights.is_under_way(cut), PATIENCE_S)
            fill(self._disk, 0)
            cut.wait(PATIENCE_S)
            wrong += self._unsaid(cut, 1, f"on {self._disk}", "what was sent is kept", "-> df -h")
            make_room(self._disk)
            again = self._laptop.type(self._weights.line)
        wrong += [*seen, *self._weights.has_come_right(again)]
        return _error_of(cut), "typed again it continued; no partial file was seen"

    def _foreseen(self, wrong: list[str]) -> tuple[str, str]:
        self._laptop.good(f"deploy --host {HOST}")
        fill(self._disk, 100 * MB)
        check = self._laptop.type(f"check --host {HOST}")
        wrong += self._unsaid(check, 1, f"GB free on {self._disk}", "GB needed", "are missing")
        refused = self._laptop.type(f"train --host {HOST}")
        wrong += self._unsaid(refused, 1, "not started", f"GB free on {self._disk}", "-> ")
        make_room(self._disk)
        again = self._laptop.type(f"check --host {HOST}")
        wrong += [] if again.code == 0 else [f"checked again: {again.said[-400:]}"]
        return _error_of(refused), "no training was started; checked again it passes"

    def _unsaid(self, typed: Typed, code: int, *words: str) -> list[str]:
        said = [] if typed.code == code else [f"exit {typed.code} instead of {code}"]
        unsaid = [word for word in words if word not in typed.words]
        return said + ([f"{', '.join(map(repr, unsaid))} is not said: {typed.said[-500:]}"] if unsaid else [])


def _error_of(typed: Typed) -> str:
    return typed.err.partition("error: ")[2].partition("\n-> ")[0]


# --- content of a run folder ---

@contextlib.contextmanager
def _living(subject: DrillSubject) -> Iterator[Life]:
    life = Life(subject.spec)
    try:
        yield life
    finally:
        life.kill()


def _until(life: Life, happened: Callable[[], object]) -> None:
    """Wait until it `happened`, or all processes have ended. Raise StepFailed when neither comes."""
    end_s = time.monotonic() + PATIENCE_S
    while not happened() and None in life.codes:
        if time.monotonic() > end_s:
            said = Path(life.spec.paths.log).read_text()
            raise StepFailed(f"nothing happened for {PATIENCE_S:.0f} s:\n{said[-1000:]}")
        time.sleep(0.01)


def _told(subject: DrillSubject, kind: str) -> list[Event]:
    return [event for event in subject.events if event.kind == kind]


def _damaged(subject: DrillSubject) -> list[str]:
    """Return the checkpoints in the Journal that have changed."""
    folder = Path(subject.spec.paths.checkpoints)
    return [f"{path.name} is damaged" for path in folder.glob("step_*") if path.suffix != ".tmp"
            if (sealed := manifest.read(path)) is None or manifest.differences(path, sealed)]


def _unreadable(subject: DrillSubject) -> list[str]:
    return [str(event.data["message"]) for event in _told(subject, "warning") if "unreadable" in str(event.data)]
