"""`inv drill why`: what recorded endings are taken for, then causes injected into real trainings on the lab's host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from proofs.staging import endings
from proofs.staging.ground import own_lab, release_in, tiny_assets
from proofs.staging.plants import Plant, cleared, plants
from rdtops.contract.config import override, preset
from rdtops.contract.journal import Journal
from rdtops.contract.recovery import Recovery
from rdtops.contract.run import RunSpec, new_run_id
from rdtops.errors import RdtopsError
from rdtops.hostlib.processes import Process
from rdtops.lab.fake_gpus import FakeGpuProcess, Gpus
from rdtops.lab.site import Lab
from rdtops.runs import jobs, launch, overview, why
from rdtops.ssh.connection import Connection
from rdtops.supervisor import family
from rdtops.ui.repository import Drilled, Say, StepFailed

RECOVERY = Recovery(restarts=0, grace_s=5.0)
LIMIT_S = 300.0
POLL_S = 0.1
HEAD = '''\
"""Planted by `inv drill why`."""
import os, sys, time
import torch
from rdtops.trainer.loop import checkpoint, failures, inputs
from rdtops.trainer.data import libero
from rdtops.trainer.distributed import ranks
from rdtops.trainer import train
'''
FOOT = '''
if __name__ == "__main__":
    failures.end(train.main(sys.argv[2:]))
'''


@dataclass(frozen=True)
class Named:
    """The diagnosis of a planted cause."""

    planted: str
    how: str
    named: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.planted == self.named


def drill(say: Say, *, kills: int = 0, only: str = "") -> Iterator[Drilled]:
    """Run the drill. `kills`: number of injected causes; `only`: causes with the word in their name."""
    yield confusion(only)
    chosen = [plant for plant in plants() if only in plant.cause][:kills or None]
    with own_lab("why", say) as (site, connection):
        yield drill_why(site, connection, tiny_assets(), chosen, say)


def confusion(only: str = "") -> Drilled:
    """Diagnose the corpus of endings: a row for each right cause and what it was taken for."""
    chosen = [ending for ending in endings.read() if only in ending.cause]
    rows = endings.confusion(chosen)
    right = sum(row.endings for row in rows if row.right == row.diagnosed)
    forbidden = sum(row.forbids_wrongly for row in rows)
    return Drilled(f"{right} of {len(chosen)} endings were named right, {forbidden} forbid a restart wrongly",
                   tuple(rows))


def drill_why(site: Lab, connection: Connection, assets: Mapping[str, str], chosen: Sequence[Plant],
              say: Say) -> Drilled:
    """Run one training after the other."""
    rows = []
    for plant in chosen:
        begun_s = time.monotonic()
        found, summary = Planted(site, connection, assets, plant).named()
        rows.append(Named(plant.cause, plant.how, found, round(time.monotonic() - begun_s, 1)))
        say(f"{plant.cause} ({plant.how}) is called {found}: {summary}")
    right = sum(row.passed for row in rows)
    return Drilled(f"{right} of {len(rows)} planted causes were named right", tuple(rows))


class Planted:
    """A training with an injected cause."""

    def __init__(self, site: Lab, connection: Connection, assets: Mapping[str, str], plant: Plant) -> None:
        self.site, self.planted = site, plant
        connection.host = plant.host(replace(connection.host, recovery=RECOVERY))
        self.connection = connection
        settings = ["num_processes=1", "max_steps=6", "checkpoint_every_steps=5", "sample_every_steps=0",
                    *plant.settings]
        run_id = new_run_id("why")
        self.spec = RunSpec(run_id, connection.host.name, "", connection.workspace,
                            release_in(connection.workspace), "drill",
                            plant.assets(assets, Path(connection.workspace) / "planted" / run_id),
                            override(preset("tiny"), settings))
        self.root = Path(self.spec.paths.root)

    def named(self) -> tuple[str, str]:
        """Return the cause and its summary, as `inv why` finds them."""
        host = self.connection.host
        with cleared(self.spec):
            try:
                self._run()
                found = why.ask(self.connection, self.spec.run_id).diagnosis
            except RdtopsError as error:
                return "no answer", error.message
            finally:
                family.end(self.spec.run_id)
                self.site.set_gpus(host.name, Gpus(1))
                self.connection.host = replace(host, environment=type(host.environment)())
        return found.cause, found.summary

    def _run(self) -> None:
        self._prepare()
        if self.planted.at_step:
            self._wait(lambda: self.step >= self.planted.at_step)
            self.planted.act(self)
        if not self.planted.runs_on:
            self._wait(lambda: overview.find(self.connection, self.spec.run_id).state.ended, every_s=1.0)

    def _prepare(self) -> None:
        """Prepare the run folder as `inv train` does, with the cause injected, and start it."""
        Path(self.spec.paths.checkpoints).mkdir(parents=True)
        Path(self.spec.paths.config).write_text(self.spec.to_json() + "\n")
        self.planted.before(self)
        text = self.planted.script(launch.script(self.connection.host, self.spec), self.spec)
        if self.planted.source:
            self.plant_module()
            text = text.replace("-m rdtops.trainer.train", "-m planted rdtops.trainer.train")
        text = text.replace("export PYTHONPATH=", f"export PYTHONPATH={self.root}/planted:")
        Path(self.spec.paths.script).write_text(text)
        jobs.submit(self.connection, self.spec)

    # actions of plants ------------------------------------------------------------------------------------------------

    def members(self) -> list[Process]:
        return family.members(self.spec.run_id)

    def ranks(self) -> list[Process]:
        return family.ranks(self.spec.run_id)

    def stop(self) -> None:
        overview.stop(self.connection, overview.find(self.connection, self.spec.run_id), 60.0)

    def plant(self, name: str, text: str) -> None:
        """Write a module that Python finds before any other of that name."""
        folder = self.root / "planted"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)

    def plant_module(self) -> None:
        self.plant("planted", HEAD + self.planted.source + FOOT)

    def edit_config(self, old: str, new: str) -> None:
        config = Path(self.spec.paths.config)
        config.write_text(config.read_text().replace(f'"model": "{old}"', f'"model": "{new}"'))

    def mount_small_disk(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.spec.paths.checkpoints)], check=True)

    def share_gpu(self) -> None:
        """Show on GPU 0 a rank of ours and another user's process."""
        ours = self.ranks()[0].pid
        self.site.set_gpus(self.connection.host.name, Gpus(1, processes=(
            FakeGpuProcess(0, ours, "python", 40_000), FakeGpuProcess(0, 1, "python", 20_000))))

    @property
    def step(self) -> int:
        told = Journal(Path(self.spec.paths.journal)).read()
        return max((int(event.data["step"]) for event in told if event.kind == "step"), default=0)

    def _wait(self, over: Callable[[], bool], every_s: float = POLL_S) -> None:
        latest_s = time.monotonic() + LIMIT_S
        while not over():
            if time.monotonic() > latest_s:
                log = Path(self.spec.paths.log).read_text(errors="replace")[-600:]
                raise StepFailed(f"{self.spec.run_id}: nothing came within {LIMIT_S:.0f} s: {log}")
            time.sleep(every_s)
