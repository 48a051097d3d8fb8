"""A run whose Journal a test writes itself, and plugins that note what they are told of it."""

from __future__ import annotations

import types
from pathlib import Path

from rdtops.contract.config import preset
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.hookspecs import hookimpl
from rdtops.ops import runs, watch
from rdtops.ops.records import HookRecord
from rdtops.ops.registry import Plugin, Registry
from rdtops.remote.connection import Connection

RUN = "20260101-000000-watched-0001"


def begun(workspace: str, host: str = "lab2", run_id: str = RUN) -> Journal:
    """The folder of a run that was launched and whose process is gone."""
    folder = Path(workspace) / "runs" / run_id
    folder.mkdir(parents=True)
    spec = RunSpec(run_id, host, "now", workspace, "/r", "s", {"dataset": "/d"}, preset("tiny"))
    (folder / "config.json").write_text(spec.to_json())
    (folder / "process").write_text("1 1 not-this-boot\n")
    return Journal(folder / "journal.jsonl")


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
    return Plugin(name, "test", hooks=("after_checkpoint",), module=module)


def catch_up(connection: Connection, *plugins: Plugin) -> list[HookRecord]:
    return watch.catch_up(connection, Registry(plugins), runs.find(connection, RUN))


