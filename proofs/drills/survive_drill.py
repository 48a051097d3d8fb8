"""`inv drill survive`: trainings on the lab's host, launched as by `inv train`, whose ranks, loader workers, launcher,
supervisor and tmux server are killed at random moments. Only their supervisor restarts them; only where everything is
killed at once they are resumed. Each must end with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from proofs.drills.training_drill import SAME, DrillSubject, differences
from proofs.staging.ground import own_lab, release_in, tiny_assets
from rdtops.contract.config import override, preset
from rdtops.contract.journal import Event
from rdtops.contract.recovery import Recovery
from rdtops.contract.run import RunSpec, RunState, new_run_id
from rdtops.hostlib.processes import Process, ranks_of
from rdtops.on_host import detacher
from rdtops.runs import admission, overview
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.supervisor import family
from rdtops.ui.repository import Drilled, Say, StepFailed

RANK, ALL_RANKS, WORKER, LAUNCHER, SUPERVISOR, TMUX, EVERYTHING = (
    "a rank", "all ranks", "a loader worker", "the launcher of the ranks", "the supervisor", "the tmux server",
    "everything, then resumed")
VICTIMS = (RANK, SUPERVISOR, TMUX, WORKER, SUPERVISOR, LAUNCHER, TMUX, ALL_RANKS, WORKER, EVERYTHING)
RECOVERY = Recovery(restarts=1000, backoff_s=0.1, backoff_max_s=0.1)
CHECKPOINT_EVERY_STEPS = 10
LIMIT_S = 300.0  # until a training has continued, or has ended
POLL_S = 0.05


@dataclass(frozen=True)
class Killed:
    """One kill and its cost."""

    victim: str
    steps_repeated: int
    back_s: float  # until the next step event


@dataclass(frozen=True)
class Survived:
    """The kills of one kind."""

    killed: str
    times: int
    steps_done_again: int
    seconds_until_the_next_step: float  # the median


def drill(say: Say, *, kills: int = 0, only: str = "") -> Iterator[Drilled]:
    """Run the drill: 50 kills in five trainings."""
    victims = tuple(victim for victim in VICTIMS if only in victim)
    with own_lab("survive", say) as (_, connection):
        yield drill_survive(connection, tiny_assets(), kills or 50, say, victims=victims)


def drill_survive(connection: Connection, assets: Mapping[str, str], kills: int, say: Say, *, trainings: int = 5,
                  steps: int = 200, victims: tuple[str, ...] = VICTIMS, seed: int = 0) -> Drilled:
    """Run the trainings, with `kills` spread over them. The host is on this machine, so its processes can be killed."""
    begun_s = time.monotonic()
    chance = random.Random(seed)  # noqa: S311  # moments, no secrets
    left_alone = DrillTraining(connection, assets, steps)
    left_alone.start()
    left_alone.wait_for_end()
    say(f"undisturbed: {steps} steps in {time.monotonic() - begun_s:.0f} s")
    done: list[Killed] = []
    problems: list[str] = []
    for number in range(trainings):
        share = kills // trainings + (number < kills % trainings)
        training = DrillTraining(connection, assets, steps)
        training.start()
        for step in sorted(chance.randint(1, max(steps - 2 * CHECKPOINT_EVERY_STEPS, 1)) for _ in range(share)):
            done.append(training.suffer(victims[len(done) % len(victims)], step, chance))
            say(f"kill {len(done)} of {kills}: {done[-1].victim}, back after {done[-1].back_s:.1f} s, "
                f"{done[-1].steps_repeated} steps repeated")
        training.wait_for_end()
        problems += [f"training {number + 1}: {difference}"
                     for difference in differences(left_alone.subject, training.subject)]
    title = (f"{trainings} trainings of {steps} steps, 2 processes each, {len(done)} kills, "
             f"{time.monotonic() - begun_s:.0f} s")
    return Drilled(title, tuple(_rows(done)), tuple(problems), SAME)


class DrillTraining:
    """A run on the host of `connection`. Its files and processes are read on this machine."""

    def __init__(self, connection: Connection, assets: Mapping[str, str], steps: int) -> None:
        self.connection = connection
        connection.host = replace(connection.host, recovery=RECOVERY)
        settings = [f"max_steps={steps}", f"checkpoint_every_steps={CHECKPOINT_EVERY_STEPS}",
                    "checkpoints_total_limit=2", "sample_every_steps=0", "loader_workers=1"]
        self.spec = RunSpec(new_run_id("survive"), connection.host.name, "", connection.workspace,
                            release_in(connection.workspace), "drill", assets, override(preset("tiny"), settings))
        self.subject = DrillSubject(self.spec)

    def start(self) -> None:
        admission.admit(self.connection, self.spec, again=True)

    def suffer(self, victim: str, step: int, chance: random.Random) -> Killed:
        """Kill the victim at a random moment after `step`. Return when there are new step events. Raise StepFailed when
        there are none."""
        self._wait(lambda: self.last_step >= step, f"step {step}")
        time.sleep(chance.random() * 0.5)
        begun_s, attempts, told = time.monotonic(), len(self._attempts()), len(self._steps())
        if victim == TMUX:
            self._kill_tmux()
        else:
            _kill(self._chosen(victim, chance))
        if victim == EVERYTHING:
            family.end(self.spec.run_id)  # also processes being started
            self._resume()
        what = f"a step after the kill of {victim}"
        if victim == TMUX:  # a running training does not need it
            self._wait(lambda: len(self._steps()) > told + 1, what)
            return Killed(victim, 0, time.monotonic() - begun_s)
        self._wait(lambda: any(e.kind == "step" for again in self._attempts()[attempts:] for e in again), what)
        back_s = time.monotonic() - begun_s
        before = max((int(e.data["step"]) for old in self._attempts()[:attempts] for e in old if e.kind == "step"),
                     default=0)
        first = next(int(e.data["step"]) for again in self._attempts()[attempts:] for e in again if e.kind == "step")
        return Killed(victim, max(before - first + 1, 0), back_s)

    def wait_for_end(self) -> None:
        self._wait(Path(self.spec.paths.exit).exists, "the end")
        code = Path(self.spec.paths.exit).read_text().strip()
        if code != "0":
            raise StepFailed(f"{self.spec.run_id} ended with exit {code}:\n{self._log()}")

    @property
    def last_step(self) -> int:
        steps = self._steps()
        return int(steps[-1].data["step"]) if steps else 0

    def _steps(self) -> list[Event]:
        return [event for event in self.subject.events if event.kind == "step"]

    def _attempts(self) -> list[list[Event]]:
        """Return the events of each attempt."""
        found: list[list[Event]] = []
        for event in self.subject.events:
            if event.kind == "attempt":
                found.append([])
            elif found:
                found[-1].append(event)
        return found

    def _chosen(self, victim: str, chance: random.Random) -> list[Process]:
        """Wait until there is one: a starting launcher has no ranks yet."""
        while True:
            there = family.members(self.spec.run_id)
            found = {RANK: ranks_of(there), ALL_RANKS: ranks_of(there), EVERYTHING: there,
                     WORKER: family.workers(self.spec.run_id),
                     LAUNCHER: [m for m in there if "rdtops.trainer.process_group" in _words(m)
                                and "rdtops.supervisor" not in _words(m)],
                     SUPERVISOR: [m for m in there if "rdtops.supervisor" in _words(m)]}[victim]
            if found:
                return [chance.choice(found)] if victim in (RANK, WORKER) else found
            time.sleep(POLL_S)

    def _kill_tmux(self) -> None:
        """Kill the tmux server, and open a new window for the next kill."""
        socket = detacher.socket_of(self.spec.run_id)
        asked = Command("tmux", "-L", socket, "display-message", "-p", "#{pid}")
        os.kill(int(self.connection.run(asked).out), signal.SIGKILL)
        window = Command("tmux", "-L", socket, "-f", "/dev/null", "new-session", "-d", "tail", "-F",
                         str(self.spec.paths.log))
        self.connection.run(window)

    def _resume(self) -> None:
        """Launch it again as `inv train --resume` does."""
        found = overview.find(self.connection, self.spec.run_id)
        if found.state is not RunState.LOST:
            raise StepFailed(f"{self.spec.run_id}: all its processes were killed, and it is called {found.state.value}")
        self.start()

    def _wait(self, over: Callable[[], bool], what: str) -> None:
        latest_s = time.monotonic() + LIMIT_S
        while not over():
            if time.monotonic() > latest_s:
                raise StepFailed(f"{self.spec.run_id}: {what} did not come within {LIMIT_S:.0f} s:\n{self._log()}")
            time.sleep(POLL_S)

    def _log(self) -> str:
        return Path(self.spec.paths.log).read_text(errors="replace")[-1500:]


def _kill(members: Iterable[Process]) -> None:
    for member in members:
        member.send(signal.SIGKILL)


def _words(member: Process) -> list[str]:
    try:
        return Path(f"/proc/{member.pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _rows(done: list[Killed]) -> Iterable[Survived]:
    for victim in dict.fromkeys(VICTIMS):
        of_it = [one for one in done if one.victim == victim]
        if of_it:
            yield Survived(victim, len(of_it), sum(one.steps_repeated for one in of_it),
                             round(statistics.median(one.back_s for one in of_it), 1))
