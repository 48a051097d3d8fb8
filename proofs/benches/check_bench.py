"""`inv bench check`: whole `inv check` and `inv train` commands beside `ssh host true` over the same two hops.

On the WAN lab (40 ms to the jump host) where this machine supports it, else on the plain lab without delay. They run in
turn, and each is a new process with a new login; times are medians. A check cannot be faster than the slowest of its
probes, which the report names with its seconds on the host. A fresh one imports the trainer's packages there, a warm
one knows that they were imported in the same environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proofs.wan import wan_lab as wan
from proofs.wan.wan_lab import WanLab
from rdtops.errors import LabError
from rdtops.lab.site import Lab
from rdtops.ui import repository
from rdtops.ui.repository import ROOT, Measured, Say, StepFailed

PROFILE = "wan"
GOAL = 1.5
WARM_GOAL = 0.6  # of a fresh check
TRAIN_GOAL = 4 / 3  # of a warm check: 4 s where that takes 3
OPTIONAL = "required_plugins = []\n"  # md5 is left out once
ASSETS = ("rdt-tiny", "t5-tiny", "siglip-tiny")


@dataclass(frozen=True)
class Route:
    """The way of a command to the host: its prefix and its environment variables."""

    words: str
    prefix: Sequence[str]
    ssh_config: Path
    host: str
    env: Mapping[str, str]

    def ssh(self, command: str) -> list[str]:
        return [*self.prefix, "ssh", "-F", str(self.ssh_config), self.host, command]

    def inv(self, line: str) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "invoke", *line.split(), "--host", self.host]


@dataclass(frozen=True)
class Timed:
    """Seconds of one `inv check`, and of the slowest probe within it."""

    seconds: float
    probe: str
    probe_s: float


def measure(say: Say, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    """Measure. It takes about three minutes, the quick form half of that."""
    repository.make_tiny_assets(say)
    with tempfile.TemporaryDirectory() as folder, _route(Path(folder), say) as route:
        for line in ("deploy", "check"):  # the second warms the caches of digests and imports
            _run(route, route.inv(line), {})
        rounds = 3 if quick else 7
        for name, env in (("a fresh check but for MD5 sums", {"RDTOPS_DISABLED_PLUGINS": "md5"}),
                          ("a fresh check", {})):
            if only in name:
                yield _compared(route, name, env, rounds, say)
        if only in WARM:
            yield from _warm(route, rounds, say)


WARM = "a warm check, and a training"


def _compared(route: Route, name: str, env: Mapping[str, str], rounds: int, say: Say) -> Measured:
    say(f"{name}, {route.words}: {rounds} x in turn")
    bare: list[float] = []
    ours: list[Timed] = []
    for _ in range(rounds):
        bare.append(_seconds(route, route.ssh("true"), {})[0])
        ours.append(_timed(*_seconds(route, route.inv("check --fresh --json"), env)))
    check_s, bare_s, probe_s = (statistics.median(v) for v in (
        [t.seconds for t in ours], bare, [t.probe_s for t in ours]))
    ratio = check_s / (bare_s + probe_s)
    return Measured(f"{name}, {route.words}: inv check --fresh / (ssh true + slowest probe)", round(ratio, 2),
                    f"at most {GOAL:g}", ratio <= GOAL,
                    f"medians of {rounds}: check {check_s:.2f} s, ssh {bare_s:.2f} s, slowest probe "
                    f"({ours[-1].probe}) {probe_s:.2f} s")


def _warm(route: Route, rounds: int, say: Say) -> Iterator[Measured]:
    say(f"{WARM}, {route.words}: {rounds} x in turn")
    lines = {"fresh": "check --fresh", "warm": "check", "train": "train --again --set max_steps=1"}
    taken: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(rounds):
        for name, line in lines.items():
            taken[name].append(_seconds(route, route.inv(line), {})[0])
        _run(route, route.inv("logs --follow"), {})  # until it has ended, so that it disturbs no other
    fresh_s, warm_s, train_s = (statistics.median(taken[name]) for name in lines)
    words = f"medians of {rounds}: fresh {fresh_s:.2f} s, warm {warm_s:.2f} s, train {train_s:.2f} s"
    for name, ratio, goal in (("warm inv check / fresh one", warm_s / fresh_s, WARM_GOAL),
                              ("inv train / warm inv check", train_s / warm_s, TRAIN_GOAL)):
        yield Measured(f"{route.words}: {name}", round(ratio, 2), f"at most {goal:.2f}", ratio <= goal, words)


def _timed(seconds: float, out: str) -> Timed:
    probes: dict[str, float] = json.loads(out)[0]["probe_seconds"]
    slowest = max(probes, key=lambda name: probes[name])
    return Timed(seconds, slowest, probes[slowest])


def _seconds(route: Route, words: Sequence[str], env: Mapping[str, str]) -> tuple[float, str]:
    begun_s = time.perf_counter()
    out = _run(route, words, env)
    return time.perf_counter() - begun_s, out


def _run(route: Route, words: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **route.env, **env}, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=300, check=False)
    if done.returncode:
        said = f"{done.stdout[-1500:]}{done.stderr[-800:]}"
        raise StepFailed(f"{' '.join(words[-6:])} ended with exit {done.returncode}: {said}")
    return done.stdout


@contextlib.contextmanager
def _route(folder: Path, say: Say) -> Iterator[Route]:
    made = ROOT / ".lab" / "assets"
    assets = {"libero_tiny": str(ROOT / "rdtops" / "lab" / "data"), **{name: str(made / name) for name in ASSETS}}
    hosts = folder / "hosts.toml"
    env = {"RDTOPS_HOSTS": str(hosts), "RDTOPS_STATE": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    try:
        wan.require()
    except LabError as error:
        say(f"no network delay possible here, measuring without: {error.message}")
        yield from _plain(hosts, assets, env)
        return
    with WanLab(ROOT / ".lab" / "wan") as lab:
        lab.up(PROFILE)
        table = "".join(f"{json.dumps(name)} = {json.dumps(place)}\n" for name, place in assets.items())
        hosts.write_text(f"{OPTIONAL}[assets]\n{table}\n[hosts.{wan.HOST}]\nssh_alias = {json.dumps(wan.HOST)}\n"
                         f'python = {json.dumps(sys.executable)}\npreset = "tiny"\n')
        yield Route(lab.profile.words, lab.laptop, lab.ssh_config, wan.HOST,
                    {**env, "RDTOPS_SSH_CONFIG": str(lab.ssh_config)})


def _plain(hosts: Path, assets: Mapping[str, str], env: Mapping[str, str]) -> Iterator[Route]:
    lab: Lab = repository.lab()
    was_up = all(server.up for server in lab.status())
    lab.up()
    lab.write_inventory(hosts, assets)
    hosts.write_text(OPTIONAL + hosts.read_text())
    try:
        yield Route("no delay", (), lab.ssh_config, repository.LAB_HOST, env)
    finally:
        if not was_up:
            lab.down()


