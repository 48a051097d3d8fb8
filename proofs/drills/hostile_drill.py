"""`inv drill hostile`: a compromised host of the lab answers every command with whatever may harm the laptop.

Nothing outside results/ and rdtops's own state may be made or changed, no code of the host may run, no terminal may be
controlled, every command ends in time, within its memory, with a documented exit code and without a traceback. Named
attacks first, then honest answers changed at random, then broken files of host and laptop, then another user of the
host who blocks the folder of the locks.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proofs.drills import is_wanted
from proofs.hostile import attacks, stranger
from proofs.hostile.attacker import HostileHost
from proofs.hostile.attacks import EVERY, HOST, Attack, Field
from proofs.staging import broken_files
from proofs.staging.ground import lab_in, named_assets
from proofs.staging.observed_home import SECRET, Home, TypedCommand
from proofs.staging.recorded_run import OLD, RUN, record
from rdtops.lab.site import Lab
from rdtops.ui.repository import ROOT, Drilled, Say, StepFailed

MUTATIONS, SEED = 500, "rdtops"
TOGETHER = 8  # lines that are typed in one process
SHOT_LIMIT_S, LINE_LIMIT_S = 30.0, 15.0
MUTATED = (attacks.STATUS, attacks.LOGS, attacks.WHY, attacks.VERIFY, attacks.WATCH, attacks.FETCH, attacks.EVAL,
           attacks.DEPLOY, attacks.CHECK, attacks.TRAIN, attacks.STOP, attacks.REPORT, "rollback", "logs --eval")
VERDICT = ("nothing was written outside results, nothing of the host ran here, no terminal was taken, every command "
           "ended in time and said what was wrong")


@dataclass(frozen=True)
class HostileRow:
    """One attack, the typed commands, and the problems found."""

    attack: str
    row: str
    typed: str
    seconds: float
    seen: str
    holds: bool

    @property
    def passed(self) -> bool:
        return self.holds


def drill(say: Say, *, kills: int = 0, only: str = "") -> Iterator[Drilled]:
    """Run the drill. `kills`: number of mutations, 500 when 0; `only`: the rows whose `row attack` has the word."""
    folder = ROOT / ".lab" / "hostile-drill"
    shutil.rmtree(folder, ignore_errors=True)
    with lab_in(folder / "lab") as lab:
        yield drill_hostile(lab, folder, named_assets(say), say, mutations=kills or MUTATIONS, only=only)


def drill_hostile(lab: Lab, folder: Path, assets: Mapping[str, str], say: Say, *, mutations: int, only: str = "",
                  is_short: bool = False, broken: int | None = None, seed: str = SEED) -> Drilled:
    """Run against a host. `is_short`: each attack only with the commands at which it is aimed, without slow ones;
    `broken`: so many of the broken files, with the first and the last command for each; None: all with every
    command."""
    begun_s = time.monotonic()
    with Home(folder / "laptop") as home:
        ground = _Ground(lab, home, assets, say, only)
        try:
            ground.named(is_short)
            ground.mutated(mutations, seed)
            ground.broken(broken, seed)
        finally:
            ground.reset()
    if not is_short:
        say(f"no other user of the host: {stranger.obstacle()}" if stranger.obstacle() else "another user of the host")
        ground.rows += [HostileRow(s.attack, "C1", s.did, s.seconds, s.seen, s.passed) for s in stranger.attacks(only)]
    failed = [row for row in ground.rows if not row.holds]
    title = (f"{len(ground.rows)} attacks, {len(failed)} did not hold, {time.monotonic() - begun_s:.0f} s "
             f"(mutations of seed {seed!r})")
    return Drilled(title, tuple(ground.rows), tuple(f"{row.row} {row.attack}: {row.seen}" for row in failed), VERDICT)


@dataclass(frozen=True)
class Shot:
    """One command during a play of the host, which `files` start."""

    attack: str
    row: str
    line: str
    files: Mapping[str, str]


@dataclass
class _Ground:
    """The hostile host, the home that it attacks, and the observations."""

    lab: Lab
    home: Home
    assets: Mapping[str, str]
    say: Say
    only: str = ""
    rows: list[HostileRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.make()
        self.hostile = HostileHost(self.lab, HOST, {
            "home": str(self.home.home), "site_packages": str(self.home.site_packages),
            "secret": str(self.home.secret), "secret_md5": hashlib.md5(SECRET).hexdigest()})
        self.hostile.prepare()
        self.workspace = self.lab.home(HOST) / "hostile"
        self.field = Field(self.home, self.hostile, self.workspace)
        self.home.hosts.write_text(self._inventory())
        self.reset()
        for line in (attacks.DEPLOY, attacks.TRAIN):  # slow parts are done once and cached on the host
            self._honest(line)
        self.before = self.home.snapshot()

    def reset(self) -> None:
        """Reset the host to its recording, and the laptop's caches."""
        self.hostile.tells_the_truth()
        for folder in (self.workspace / "runs", self.lab.home(HOST) / "plugins"):
            while folder.exists():  # a just launched run may still write into it
                shutil.rmtree(folder, ignore_errors=True)
        for run_id in (OLD, RUN):
            record(self.workspace, run_id)
        self.home.forget()

    # --- named attacks ---

    def named(self, is_short: bool) -> None:
        chosen = [a for a in attacks.attacks() if is_wanted(f"{a.row} {a.name}", self.only)
                  and not (is_short and a.is_slow) and a.is_short in (None, is_short)]
        shots = [Shot(a.name, a.row, line, self.hostile.files_of(a.play))
                 for a in chosen if a.is_play for line in (a.lines if is_short else _every(a))]
        for is_terminal in (False, True):
            self._volleys([s for n, s in enumerate(shots) if not is_short or n % 2 == is_terminal], is_terminal)
        for number, attack in enumerate(a for a in chosen if not a.is_play):
            for is_terminal in ((False, True) if not is_short else (bool(number % 2),)):
                self._attack(attack, is_terminal=is_terminal)

    def _attack(self, attack: Attack, *, is_terminal: bool) -> None:
        self.reset()
        attack.plant(self.field)
        for program, script in attack.lies.items():
            self.hostile.lies_about(program, script)
        self.hostile.plays(attack.play)
        typed = self.home.type(*_on_host(attack.lines), is_terminal=is_terminal, limit_s=attack.limit_s)
        self._judge(attack.name, attack.row, ", ".join(attack.lines), typed, attack.limit_s, is_terminal,
                    attack.judge(self.field, typed))

    # --- mutations ---

    def mutated(self, count: int, seed: str) -> None:
        """Run the mutations. Number n is the same change of the same messages, independent of the other rows."""
        if not is_wanted("B0 mutation", self.only):
            return
        one = self.only.partition("mutation ")[2]  # repeat one that failed
        shots = [Shot(f"mutation {number}", "B0", MUTATED[number % len(MUTATED)], self.hostile.files_of(
            "mutated", seed=seed, mutation=number)) for number in ([int(one)] if one.isdigit() else range(count))]
        for is_terminal in (False, True):
            self._volleys([s for n, s in enumerate(shots) if n // len(MUTATED) % 2 == is_terminal], is_terminal)

    # --- volleys ---

    def _volleys(self, shots: Sequence[Shot], is_terminal: bool) -> None:
        """Run several in one process, and each alone when there was a problem."""
        for at in range(0, len(shots), TOGETHER):
            volley = shots[at:at + TOGETHER]
            typed, wrong = self._volley(volley, is_terminal)
            if not wrong:
                share_s = round(typed.seconds / len(volley), 2)
                self.rows += [HostileRow(s.attack, s.row, _typed(s.line, is_terminal), share_s, end.outcome, True)
                              for s, end in zip(volley, typed.ends, strict=True)]
                continue
            before = len(self.rows)
            for shot in volley if len(volley) > 1 else ():
                typed_alone, alone = self._volley([shot], is_terminal)
                self._row(shot.attack, shot.row, shot.line, typed_alone, is_terminal, alone)
            if all(row.holds for row in self.rows[before:]):
                names, lines = "; ".join(s.attack for s in volley), ", ".join(s.line for s in volley)
                self._row(names, volley[0].row, lines, typed, is_terminal, wrong)

    def _volley(self, volley: Sequence[Shot], is_terminal: bool) -> tuple[TypedCommand, list[str]]:
        self.reset()
        limit_s = SHOT_LIMIT_S * len(volley)
        typed = self.home.type(*_on_host([s.line for s in volley]), before=[s.files for s in volley],
                               is_terminal=is_terminal, limit_s=limit_s)
        return typed, self._wrong(typed, limit_s)

    # --- broken files ---

    def broken(self, count: int | None, seed: str) -> None:
        cases = [case for case in broken_files.cases() if is_wanted(f"C8 {case.name}", self.only)]
        if count is not None:
            cases = random.Random(seed).sample(cases, min(count, len(cases)))  # noqa: S311  # no secret
        for case in cases:
            self.reset()
            lines = case.lines if count is None else (case.lines[0], case.lines[-1])
            limit_s = SHOT_LIMIT_S + LINE_LIMIT_S * len(lines)
            if case.is_fetched:
                self.home.type(*_on_host((f"{attacks.FETCH} --run {OLD}",)))
            with case.broken(self.field):
                typed = self.home.type(*_on_host(lines), limit_s=limit_s)
            self._judge(case.name, "C8", ", ".join(lines), typed, limit_s, False, case.wrong(typed))

    # --- results ---

    def _judge(self, attack: str, row: str, line: str, typed: TypedCommand, limit_s: float, is_terminal: bool,
               besides: Sequence[str]) -> None:
        self._row(attack, row, line, typed, is_terminal, [*self._wrong(typed, limit_s), *besides])

    def _row(self, attack: str, row: str, line: str, typed: TypedCommand, is_terminal: bool,
             wrong: Sequence[str]) -> None:
        shown = _typed(line, is_terminal)
        seen = "; ".join(wrong or [end.outcome for end in typed.ends])
        self.rows.append(HostileRow(attack, row, shown, typed.seconds, seen[:600], not wrong))
        if wrong:
            self.say(f"{row} {attack}, {shown}:" + "".join(f"\n    {one}" for one in wrong[:8]))

    def _wrong(self, typed: TypedCommand, limit_s: float) -> list[str]:
        self.hostile.plays("honest")
        outside = self.home.wrong(self.before, (HOST,))
        if outside:
            self._make_again()
        return [*outside, *typed.wrong(limit_s)]

    def _make_again(self) -> None:
        self.home.make()
        self.before = self.home.snapshot()

    def _honest(self, line: str) -> None:
        typed = self.home.type(*_on_host((line,)), limit_s=240.0)
        if not typed.ends or typed.ends[-1].code:
            raise StepFailed(f"`inv {line}` fails here even if the host is honest:\n{typed.words[-1500:]}")

    def _inventory(self) -> str:
        path = self.home.folder / "inventory.toml"
        self.lab.write_inventory(path, self.assets)
        head, host, rest = path.read_text().partition(f"[hosts.{HOST}]\n")
        rest = rest.replace('"~/rdtops"', '"~/hostile"', 1)
        return f"{head}{host}python = {json.dumps(self.hostile.python)}\n{rest}"


def _every(attack: Attack) -> tuple[str, ...]:
    return (*attack.lines, *(line for line in EVERY if line not in attack.lines and not attack.only_these))


def _typed(line: str, is_terminal: bool) -> str:
    return f"{line} (terminal)" if is_terminal else line


def _on_host(lines: Sequence[str]) -> list[str]:
    """Return the commands that ask a host, with its name."""
    return [line if line.startswith("report --run results/") else f"{line} --host {HOST}" for line in lines]

