"""A cluster as the user has it: a login node in hosts.toml, and what its runs leave on the shared file system."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rdtops.contract.journal import Event, Journal
from tests.lab.commandline import CommandLine

SETTINGS = "--set max_steps=20000 --set heldout_share=0"


def laptop(folder: Path, tiny_hosts: Path, hosts: dict[str, str]) -> CommandLine:
    """`hosts`: name -> options of the plugin slurm. All are the same login node, the lab's host `lab`."""
    text = tiny_hosts.read_text()
    login = text[text.index("[hosts.lab]") + len("[hosts.lab]"):text.index("[hosts.lab2]")]
    login = "\n".join(line for line in login.splitlines() if not line.startswith("default"))
    for name, options in hosts.items():
        text += f'\n[hosts.{name}]{login}\nlauncher = "slurm"\n[hosts.{name}.plugins.slurm]\n{options}'
    (folder / "hosts.toml").write_text(text.replace('"~/rdtops"', '"~/cluster"'))
    return CommandLine(folder, folder / "hosts.toml")


def launched(inv: CommandLine, host: str, settings: str) -> str:
    """The id of a training that was handed to Slurm."""
    line = inv.good(f"train --host {host} {SETTINGS} {settings}", timeout_s=300)
    assert "handed to Slurm, job " in line.out
    return inv.good(f"status --host {host} --all --json", timeout_s=300).rows()[-1]["run_id"]


def view(inv: CommandLine, host: str, run_id: str) -> dict[str, Any]:
    return inv.good(f"status --host {host} --run {run_id} --json", timeout_s=300).rows()[0]


def events(runs: Path, run_id: str, *kinds: str) -> list[Event]:
    return [e for e in Journal(runs / run_id / "journal.jsonl").read() if e.kind in kinds]


def steps(runs: Path, run_id: str) -> list[int]:
    return [e.data["step"] for e in events(runs, run_id, "step")]


def wait_for(look: Callable[[], Any], limit_s: float = 300.0) -> Any:
    end = time.monotonic() + limit_s
    while not (seen := look()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)
    return seen
