"""A run whose Journal a test writes itself, and plugins that note what they are told of it."""

from __future__ import annotations

import shutil
import subprocess
import time
import types
from collections.abc import Callable
from pathlib import Path

from rdtops.contract.config import preset
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.hookspecs import hookimpl
from rdtops.hostlib import processes
from rdtops.lab.site import Lab
from rdtops.plugging.registry import Plugin, Registry
from rdtops.runs import overview, watch
from rdtops.runs.records import HookRecord
from rdtops.ssh.connection import Connection
from rdtops.testing import load

RUN = "20260101-000000-watched-0001"


def begun(workspace: str, host: str = "lab2", run_id: str = RUN) -> Journal:
    """The folder of a run that was launched and whose process is gone."""
    folder = Path(workspace) / "runs" / run_id
    folder.mkdir(parents=True)
    spec = RunSpec(run_id, host, "now", workspace, "/r", "s", {"dataset": "/d"}, preset("tiny"))
    (folder / "config.json").write_text(spec.to_json())
    (folder / "process").write_text("1 1 not-this-boot\n")
    return Journal(folder / "journal.jsonl")


class Alive:
    """A run of a lab host whose process lives until the test ends it. Use it as a context manager."""

    def __init__(self, lab: Lab, host: str, run_id: str) -> None:
        self.run_id = run_id
        self.journal = begun(str(lab.home(host) / "rdtops"), host, run_id)
        self.folder = self.journal.path.parent
        self.process = subprocess.Popen(["sleep", "600"], env={"PATH": "/usr/bin:/bin", "RDTOPS_RUN": run_id,
                                                               "CUDA_VISIBLE_DEVICES": "3,5"})
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        start = processes.start_time(self.process.pid)
        (self.folder / "process").write_text(f"{self.process.pid} {start} {boot}\n")

    def ends(self, code: int = 0) -> None:
        (self.folder / "exit").write_text(f"{code}\n")
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Alive:
        return self

    def __exit__(self, *_: object) -> None:
        self.ends()
        shutil.rmtree(self.folder)


def wait_until(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    latest = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.05)


def checkpoint(journal: Journal, step: int) -> None:
    journal.append("checkpoint", step=step, name=f"step_{step:06d}", size_bytes=1, digest=f"digest-{step}")


def plugin(name: str, seen: list[tuple[str, int]], fails_at: int = 0) -> Plugin:
    module = types.ModuleType(name)

    @hookimpl
    def after_checkpoint(checkpoint, run):
        seen.append((name, checkpoint.step))
        assert run.run_id == RUN
        if checkpoint.step == fails_at:
            raise ValueError("no")
        return {"step": checkpoint.step}

    module.after_checkpoint = after_checkpoint
    return load(module)


def catch_up(connection: Connection, *plugins: Plugin) -> list[HookRecord]:
    return watch.catch_up(connection, Registry(plugins), overview.find(connection, RUN))


