"""`inv drill network`: an SSH server of the route dies, freezes or changes its host key, during every kind of command.

Each time: the command ends in bounded time and names the hop and the next command, or, where it promises so,
reconnects by itself; a changed key is refused and nothing is sent; no partial file ever has a final name; a running
training is not affected; and the same command, repeated after the repair, succeeds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proofs.drills import is_wanted
from proofs.staging import link_phases
from proofs.staging.ground import lab_in, named_assets
from proofs.staging.link_phases import HOST, Deploy, Fetch, Launch, LinkPhase, Logs, PhaseCheck, TrainingSeen, Watch
from proofs.staging.route_faults import Fault, Frozen, KeyChanged, ServerKilled
from proofs.staging.typed import Laptop, Typed
from rdtops.lab.site import JUMP, Lab
from rdtops.ui.repository import ROOT, Drilled, Say

BEFORE, WITHIN = "before", "within"
UNHARMED, ENDED, REFUSED, NOTICED = "unharmed", "ended", "refused", "went on"
KINDS = (ServerKilled, Frozen, KeyChanged)
FAULTS = tuple(kind(hop) for kind in KINDS for hop in (JUMP, HOST))
FAULTS_OF_A_MENU = tuple(kind(JUMP, said_as=HOST) for kind in KINDS)  # the bastion is the only hop
AGAIN = "trying again"  # message of a command that reconnects
TRIES = 12  # a command may end before the fault; a launch usually does
BEGINS_S, RERUN_S = 90.0, 180.0
ROOM_S = 15.0  # to start Python and identify the hop, on a busy machine
PATIENCE_S = 60.0  # after a missed limit, to see the result
COMES_BACK_S = 70.0  # a pause between two tries, 30 s at the longest, and a login
NEWS_S = 60.0  # for a training to do a step, on a busy machine
TRAINING = "--set max_steps=1000000 --set checkpoint_every_steps=60 --set sample_every_steps=0 --set num_processes=1"
VERDICT = "every command ended in time, named the hop and succeeded later; no partial file, no training affected"


@dataclass(frozen=True)
class Cell:
    """One fault in one phase. `seconds` are from the strike to the end, or to the first word that the link is lost."""

    phase: str
    fault: str
    when: str
    outcome: str
    seconds: float
    at_most_s: float
    back_s: float | None  # from the repair until it continues by itself
    passed: bool


def drill(say: Say, *, kills: int = 0, only: str = "", door: str = "") -> Iterator[Drilled]:
    """Run the drill. All of it takes about 20 minutes; `kills`: repetitions of each, once when 0; `door`: that of the
    lab's jump host."""
    folder = ROOT / ".lab" / "network-drill"
    shutil.rmtree(folder, ignore_errors=True)
    with lab_in(folder / "lab", door) as lab:
        yield drill_network(lab, folder, named_assets(say), say, only=only, times=kills or 1)


def drill_network(lab: Lab, folder: Path, assets: dict[str, str], say: Say, *, only: str = "", times: int = 1,
                  settings: str = "") -> Drilled:
    """Run the cells whose `phase fault when` is requested. `settings` are lines for every hop of hosts.toml."""
    begun_s = time.monotonic()
    heavy = link_phases.heavy_weights(folder, Path(assets["rdt-tiny"]))
    laptop = Laptop(folder / "laptop", lab, {**assets, link_phases.HEAVY: str(heavy)}, settings)
    ground = _Ground(lab, laptop, say)
    laptop.good(f"deploy --host {HOST}")
    for _ in range(times):
        ground.cells_of(Launch(lab, laptop), only)  # it is to find no training
        others = (Deploy(lab, laptop, heavy), PhaseCheck(lab, laptop), Watch(lab, laptop), Logs(lab, laptop),
                  Fetch(lab, laptop, heavy))
        if any(_wanted(lab, phase, only) for phase in others):
            with ground.training():
                for phase in others:
                    ground.cells_of(phase, only)
    title = f"a link broken in {len(ground.cells)} ways, {time.monotonic() - begun_s:.0f} s"
    return Drilled(title, tuple(ground.cells), tuple(ground.problems), VERDICT)


class _Ground:
    """The lab, the laptop, and the training that must not be affected."""

    def __init__(self, lab: Lab, laptop: Laptop, say: Say) -> None:
        self.lab, self.laptop = lab, laptop
        self.cells: list[Cell] = []
        self.problems: list[str] = []
        self._say = say
        self._trained = ""

    def cells_of(self, phase: LinkPhase, only: str) -> None:
        for fault, when in _wanted(self.lab, phase, only):
            self._cell(phase, fault, when)

    def _cell(self, phase: LinkPhase, fault: Fault, when: str) -> None:
        before = self._training_state()
        trial = _Trial(self.lab, self.laptop, phase, fault, when)
        for _ in range(TRIES):
            if trial.run():
                break
        else:
            trial.wrong.append(f"it was done each of {TRIES} times before it could be hit")
        wrong = [*trial.wrong, *self._harm(before)]
        self.cells.append(Cell(phase.name, fault.words, when, trial.outcome, round(trial.seconds, 1), trial.at_most_s,
                               trial.back_s, not wrong))
        self.problems += [f"{phase.name}, {fault.words} {when}: {one}" for one in wrong]
        self._say(f"{phase.name:13} {fault.words:29} {when:6} {trial.outcome:9} {trial.seconds:5.1f} s"
                  + "".join(f"\n    {one}" for one in wrong))

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Start a training that runs all the time, with the lowest CPU priority."""
        self.laptop.good(f"train --host {HOST} {TRAINING}")
        (self._trained,) = link_phases.trainings(self.lab)
        for pid in self.lab.sessions(HOST):
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, pid, 19)
        try:
            self._step_after(0)
            yield
        finally:
            self._trained = ""
            link_phases.end_trainings(self.lab)

    def _training_state(self) -> TrainingSeen:
        return link_phases.state_of_training(self.lab, self._trained)

    def _harm(self, before: TrainingSeen) -> list[str]:
        """Check that the training is not affected: it must be the same one, and do further steps."""
        if not self._trained:
            return []
        step = self._step_after(self._training_state().step)
        now = self._training_state()
        wrong = [] if step > before.step else [f"the training stands still at step {before.step}"]
        if now.starts != before.starts or now.troubles != before.troubles:
            wrong.append(f"the training was affected: {now} after {before}")
        return wrong

    def _step_after(self, step: int) -> int:
        end_s = time.monotonic() + NEWS_S
        while (now := self._training_state().step) <= step and time.monotonic() < end_s:
            time.sleep(0.2)
        return now


class _Trial:
    """One command, one fault during it, the repair, and the repeated command."""

    def __init__(self, lab: Lab, laptop: Laptop, phase: LinkPhase, fault: Fault, when: str) -> None:
        self.at_most_s = _at_most_s(phase, fault, when)
        self.outcome, self.seconds = UNHARMED, 0.0
        self.back_s: float | None = None
        self.wrong: list[str] = []
        self._lab, self._laptop, self._phase, self._fault, self._when = lab, laptop, phase, fault, when
        self._comes_back = phase.reconnects and when == WITHIN and not isinstance(fault, KeyChanged)

    def run(self) -> bool:
        """Run once. Return False when the command completed before or despite the fault."""
        self.outcome, self.wrong = UNHARMED, []
        self._phase.reset()
        with self._phase.observed() as seen:
            typed = self._under_way() if self._when == WITHIN else None
            if typed and typed.code is not None:
                self.wrong.append(f"it never began: {typed.said[-400:]}")
                return False
            self._hit(typed)
        self.wrong += seen
        return self.outcome != UNHARMED

    def _under_way(self) -> Typed:
        typed = self._laptop.start(self._phase.line)
        typed.until(lambda: self._phase.is_under_way(typed), BEGINS_S)
        return typed

    def _hit(self, typed: Typed | None) -> None:
        begun_s = time.monotonic()
        self._fault.strike(self._lab)
        logins = _logins(self._lab, self._fault.hop)
        typed = typed or self._laptop.start(self._phase.line)
        try:
            self._await_notice(typed)
            self.seconds = time.monotonic() - begun_s
            self._judge(typed, logins)
            self._repair(typed)
        finally:
            typed.kill()
        self._type_again()

    def _await_notice(self, typed: Typed) -> None:
        typed.until(lambda: self._comes_back and AGAIN in typed.err, self.at_most_s + PATIENCE_S)

    def _judge(self, typed: Typed, logins: int) -> None:
        if typed.code == 0:
            return
        self.outcome = REFUSED if isinstance(self._fault, KeyChanged) else NOTICED if self._comes_back else ENDED
        self._hold(self._fault.is_named(typed.words), f"it does not name {self._fault.named}: {typed.said[-400:]}")
        self._hold(self.seconds <= self.at_most_s, f"it took {self.seconds:.1f} s")
        if not self._comes_back:
            self._hold(typed.code == 3, f"exit {typed.code} instead of 3: {typed.said[-400:]}")
            self._hold("-> " in typed.err, f"no next command: {typed.err[-400:]}")
        if self.outcome == REFUSED:
            self._hold(_logins(self._lab, self._fault.hop) == logins, f"it logged in to {self._fault.hop}")

    def _repair(self, typed: Typed) -> None:
        """Repair the link, and check that the command continues where it promises to."""
        news, begun_s = self._phase.news(typed), time.monotonic()
        self._fault.mend(self._lab, self._laptop)
        if self._comes_back:
            back = typed.until(lambda: self._phase.news(typed) > news, COMES_BACK_S)
            self.back_s = round(time.monotonic() - begun_s, 1)
            self._hold(back, f"it does not go on within {COMES_BACK_S:.0f} s of the repair: {typed.said[-400:]}")

    def _type_again(self) -> None:
        rerun = self._laptop.start(self._phase.line)
        try:
            if self._phase.is_endless:
                rerun.until(lambda: self._phase.is_under_way(rerun), BEGINS_S)
            else:
                rerun.wait(RERUN_S)
        finally:
            rerun.kill()
        self.wrong += self._phase.has_come_right(rerun)

    def _hold(self, holds: object, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


def _wanted(lab: Lab, phase: LinkPhase, only: str) -> list[tuple[Fault, str]]:
    faults = FAULTS_OF_A_MENU if lab.door == "menu" else FAULTS
    return [(fault, when) for fault in faults for when in _moments(phase, fault)
            if is_wanted(f"{phase.name} {fault.words} {when}", only)]


def _moments(phase: LinkPhase, fault: Fault) -> Sequence[str]:
    """Tell whether the host key is checked: at a login, so at the beginning and at a reconnection."""
    return (BEFORE,) if isinstance(fault, KeyChanged) and not phase.reconnects else (BEFORE, WITHIN)


def _at_most_s(phase: LinkPhase, fault: Fault, when: str) -> float:
    if isinstance(fault, Frozen):
        return ROOM_S + (link_phases.LOGIN_S if when == BEFORE else phase.silence_s)
    return ROOM_S


def _logins(lab: Lab, hop: str) -> int:
    """Return the number of logins in the server's log."""
    return (lab.folder(hop) / "server.log").read_text(errors="replace").count("Accepted publickey")
