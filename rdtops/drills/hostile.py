"""`inv drill hostile`: a host of the lab that was broken into answers every command with whatever may hurt the laptop.

Nothing outside results/ and rdtops's own state may be made or changed, no code of the host may run, no terminal may be
taken, every command ends in time, within its memory, with an exit code that it promises and without a traceback. Named
attacks first, then honest answers changed at random, then broken files of host and laptop, then another user of the
host who sits in the folder of the locks.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdtops.drills import attacks, broken_files, is_wanted, stranger
from rdtops.drills.attacks import EVERY, HOST, Attack, Field
from rdtops.drills.ground import lab_in, named_assets
from rdtops.drills.observed_home import SECRET, Home, Typed
from rdtops.drills.recorded_run import OLD, RUN, record
from rdtops.lab.hostile.attacker import HostileHost
from rdtops.lab.site import Lab
from rdtops.ops.repository import ROOT, Drilled, Say

MUTATIONS, SEED = 500, "rdtops"
MUTATED_LIMIT_S, RESTING_LIMIT_S = 60.0, 30.0
MUTATED = ("status --all", "logs", "why", "checkpoints --verify", "watch --plain", "fetch-results --checkpoint all",
           "eval --dry-run", "deploy --from-scratch", "check --from-scratch", "train --from-scratch", "gpu", "stop",
           "rollback")
PIPE, TERMINAL = "pipe", "terminal"
VERDICT = ("nothing was written outside results, nothing of the host ran here, no terminal was taken, every command "
           "ended in time and said what was wrong")


@dataclass(frozen=True)
class Row:
    """One attack, what was typed, and what was wrong with what came of it."""

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
    """`kills`: how many mutations, 500 when 0; `only`: the rows whose `row attack` has the word."""
    folder = ROOT / ".lab" / "hostile-drill"
    shutil.rmtree(folder, ignore_errors=True)
    with lab_in(folder / "lab") as lab:
        yield drill_hostile(lab, folder, named_assets(say), say, mutations=kills or MUTATIONS, only=only)


def drill_hostile(lab: Lab, folder: Path, assets: Mapping[str, str], say: Say, *, mutations: int, only: str = "",
                  is_short: bool = False, broken: int = 0, seed: str = SEED) -> Drilled:
    """`is_short`: each attack only with the commands where it matters, those that take long left out; `broken`: so many
    of the broken files, all when 0."""
    begun_s = time.monotonic()
    with Home(folder / "laptop") as home:
        ground = _Ground(lab, home, assets, say, only)
        ground.named(is_short)
        ground.mutated(mutations, seed)
        ground.broken(broken, seed)
    if not is_short:
        ground.rows += [Row(s.attack, "C1", s.did, s.seconds, s.seen, s.passed) for s in stranger.attacks(folder)
                        if is_wanted(f"C1 {s.attack}", only)]
    failed = [row for row in ground.rows if not row.holds]
    title = (f"{len(ground.rows)} attacks, {len(failed)} did not hold, {time.monotonic() - begun_s:.0f} s "
             f"(mutations of seed {seed!r})")
    return Drilled(title, tuple(ground.rows), tuple(f"{row.row} {row.attack}: {row.seen}" for row in failed), VERDICT)


@dataclass
class _Ground:
    """The hostile host, the home that it attacks, and what was seen."""

    lab: Lab
    home: Home
    assets: Mapping[str, str]
    say: Say
    only: str = ""
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.make()
        self.hostile = HostileHost(self.lab, HOST, {
            "home": str(self.home.home), "site_packages": str(self.home.site_packages),
            "secret": str(self.home.secret), "secret_md5": hashlib.md5(SECRET).hexdigest()})
        self.hostile.prepare()
        self.workspace = self.lab.home(HOST) / "rdtops"
        self.field = Field(self.home, self.hostile, self.workspace)
        self.home.hosts.write_text(self._inventory())
        self.reset()
        for line in ("deploy --from-scratch", "check --from-scratch"):  # what is slow is done, and remembered there
            self._honest(line)
        self.before = self.home.snapshot()

    def reset(self) -> None:
        """The host as it was recorded, and a laptop that knows nothing of it."""
        self.hostile.tells_the_truth()
        shutil.rmtree(self.workspace / "runs", ignore_errors=True)
        shutil.rmtree(self.lab.home(HOST) / "plugins", ignore_errors=True)
        for run_id in (OLD, RUN):
            record(self.workspace, run_id)
        self.home.forget()

    # --- named attacks ---

    def named(self, is_short: bool) -> None:
        for number, attack in enumerate(attacks.attacks()):
            if not is_wanted(f"{attack.row} {attack.name}", self.only) or (is_short and attack.is_slow):
                continue
            if is_short:
                self._attack(attack, attack.lines, is_terminal=bool(number % 2))
                continue
            others = () if attack.only_these or attack.is_slow else tuple(x for x in EVERY if x not in attack.lines)
            if attack.judge is attacks._others_go_on:  # the lines belong together
                batches: Sequence[tuple[str, ...]] = [attack.lines]
            else:
                batches = [(line,) for line in (*attack.lines, *others)]
            for lines in batches:
                for is_terminal in (False, True):
                    self._attack(attack, lines, is_terminal=is_terminal)

    def _attack(self, attack: Attack, lines: tuple[str, ...], *, is_terminal: bool) -> None:
        self.reset()
        attack.plant(self.field)
        for program, script in attack.lies.items():
            self.hostile.lies_about(program, script)
        self.hostile.plays(attack.play)
        typed = self.home.type(*_on_host(lines), is_terminal=is_terminal, limit_s=attack.limit_s)
        self._judge(attack.name, attack.row, ", ".join(lines), typed, attack.limit_s, is_terminal,
                    attack.judge(self.field, typed))

    # --- mutations ---

    def mutated(self, count: int, seed: str) -> None:
        """Number n is the same change of the same message whatever else is drilled."""
        if not is_wanted("B0 mutation", self.only):
            return
        if self.only.partition("mutation ")[2].isdigit():  # one that failed, again
            numbers: Sequence[int] = [int(self.only.partition("mutation ")[2])]
        else:
            numbers = range(count)
        spoken = {line: self._spoken(line) for line in MUTATED}
        for number in numbers:
            line = MUTATED[number % len(MUTATED)]
            kinds = spoken[line]
            if not kinds:
                continue
            chance = random.Random(f"{seed}/{number}")  # noqa: S311  # to be done again, no secret
            at = chance.choice(kinds[chance.choice(sorted(kinds))])
            self.reset()
            self.hostile.plays("mutated", at=at, seed=seed, mutation=number)
            is_terminal = chance.random() < 0.5
            typed = self.home.type(*_on_host((line,)), is_terminal=is_terminal, limit_s=MUTATED_LIMIT_S)
            self._judge(f"mutation {number} of message {at}", "B0", line, typed, MUTATED_LIMIT_S, is_terminal, [])

    def _spoken(self, line: str) -> dict[str, list[int]]:
        """Kind of message -> the numbers of those that the host says during an honest `inv LINE`."""
        self.reset()
        self.hostile.plays("counted")
        self.home.type(*_on_host((line,)))
        found: dict[str, list[int]] = {}
        for said in self.hostile.said():
            found.setdefault(said.kind, []).append(said.number)
        return found

    # --- broken files ---

    def broken(self, count: int, seed: str) -> None:
        cases = [case for case in broken_files.cases() if is_wanted(f"C8 {case.name}", self.only)]
        if count:
            cases = random.Random(seed).sample(cases, min(count, len(cases)))  # noqa: S311  # no secret
        for case in cases:
            self.reset()
            limit_s = RESTING_LIMIT_S + 5.0 * len(case.lines)
            if case.is_fetched:
                self.home.type(*_on_host((attacks.FETCH, f"{attacks.FETCH} --run {OLD}")))
            with case.broken(self.field):
                typed = self.home.type(*_on_host(case.lines), limit_s=limit_s)
            self._judge(case.name, "C8", ", ".join(case.lines), typed, limit_s, False,
                        case.wrong(typed))

    # --- what came of it ---

    def _judge(self, attack: str, row: str, line: str, typed: Typed, limit_s: float, is_terminal: bool,
               besides: Sequence[str]) -> None:
        self.hostile.plays("honest")
        outside = self.home.wrong(self.before, (HOST,))
        wrong = [*outside, *typed.wrong(limit_s), *besides]
        if outside:
            self._make_again()
        shown = line if not is_terminal else f"{line} ({TERMINAL})"
        self.rows.append(Row(attack, row, shown, typed.seconds, "; ".join(wrong)[:600], not wrong))
        if wrong:
            self.say(f"{row} {attack}, {shown}:" + "".join(f"\n    {one}" for one in wrong[:8]))

    def _make_again(self) -> None:
        self.home.make()
        self.before = self.home.snapshot()

    def _honest(self, line: str) -> None:
        typed = self.home.type(*_on_host((line,)), limit_s=240.0)
        if typed.ends and typed.ends[-1].code not in (0, 1):
            raise AssertionError(f"an honest `inv {line}`: {typed.words[-1500:]}")

    def _inventory(self) -> str:
        path = self.home.folder / "inventory.toml"
        self.lab.write_inventory(path, self.assets)
        head, host, rest = path.read_text().partition(f"[hosts.{HOST}]\n")
        return f"{head}{host}python = {_toml(self.hostile.python)}\n{rest}"


def _on_host(lines: Sequence[str]) -> list[str]:
    """Those that ask a host, with its name."""
    return [line if line.startswith(("plugins", "report --run results/")) else f"{line} --host {HOST}" for line in lines]


def _toml(text: str) -> str:
    return '"' + os.fspath(text) + '"'


