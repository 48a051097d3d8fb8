"""`inv bench scale`: how the cost of commands grows with hosts, runs and the length of a Journal.

Fifty hosts are fifty entries of hosts.toml behind one jump, each with a workspace, two runs and Journals of 10,000
events; one sshd of the lab represents all of them, so that this machine also does the work of all fifty. Every number
is of an `inv` command in a new process with new logins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtops.contract.config import preset
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.errors import LabError
from rdtops.hostlib import processes
from rdtops.hostlib.names import RunId
from rdtops.lab.ports import Ports
from rdtops.lab.site import Lab
from rdtops.ui.repository import ROOT, Measured, Say, StepFailed

HOSTS, EVENTS, SHORT = 50, 10_000, 100
STATUS_GOAL, JOURNAL_GOAL, MEMORY_GOAL = 3.0, 1.3, 1.1
LAB_HOST = "lab2"
SEEN_S = 120.0
_NUMBERS = {"learning_rate": 1e-4, "grad_norm": 1.0, "samples": 8, "samples_per_s": 20.0, "step_s": 0.4, "data_s": 0.1,
            "encode_s": 0.1, "forward_s": 0.1, "backward_s": 0.1, "optimiser_s": 0.0, "save_s": 0.0,
            "evaluation_s": 0.0, "memory_mib": 4000, "eta_s": 100.0}


@dataclass(frozen=True)
class Park:
    """Simulated hosts: names of hosts.toml, and their workspaces."""

    names: tuple[str, ...]
    home: Path
    env: Mapping[str, str]

    def runs(self, name: str) -> Path:
        return self.home / name / "runs"

    def status_s(self, names: Sequence[str]) -> float:
        begun_s = time.perf_counter()
        rows = json.loads(self.inv("status", "--host", ",".join(names), "--json"))
        took_s = time.perf_counter() - begun_s
        if sorted({row["host"] for row in rows}) != sorted(names) or any(row.get("problem") for row in rows):
            raise StepFailed(f"inv status did not show all hosts: {json.dumps(rows)[:500]}")
        return took_s

    def inv(self, *words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "invoke", *words], cwd=ROOT, env={**os.environ, **self.env},
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, check=False)
        if done.returncode > 1:
            raise StepFailed(f"inv {' '.join(words)[:80]} ended with exit {done.returncode}: {done.stderr[-800:]}")
        return done.stdout


def measure(say: Say, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    """Measure. It takes about two minutes; the quick form has ten hosts and one sample of each."""
    count = 10 if quick else HOSTS
    with tempfile.TemporaryDirectory(prefix="rdtops-scale-") as folder:
        lab = Lab(Path(folder) / "lab", Ports.free())
        lab.up()
        try:
            park = _park(lab, Path(folder), count)
            rows: dict[str, Callable[[], Measured]] = {
                f"inv status of {count} hosts": lambda: _of_hosts(park, say, 1 if quick else 5),
                "inv status, a Journal of 10,000 events": lambda: _of_journals(park, say, 2 if quick else 5),
                "memory of inv watch": lambda: _of_watching(park, say)}
            yield from (row() for name, row in rows.items() if only in name)
        finally:
            lab.down()


def _of_hosts(park: Park, say: Say, samples: int) -> Measured:
    say(f"status of {len(park.names)} hosts, then of {samples} of them alone")
    together_s = park.status_s(park.names)
    step = max(1, len(park.names) // samples)
    slowest_s = max(park.status_s([name]) for name in park.names[::step])
    return Measured(f"inv status of {len(park.names)} hosts / the slowest single one", round(together_s / slowest_s, 2),
                    f"at most {STATUS_GOAL:g}", together_s <= STATUS_GOAL * slowest_s,
                    f"{together_s:.1f} s, {slowest_s:.1f} s of {len(park.names[::step])} alone; two hops, two runs a "
                    f"host, {EVENTS} events a Journal; all sshd on this machine")


def _of_journals(park: Park, say: Say, samples: int) -> Measured:
    """Measure both in turn; take the minimum of each, since disturbances only add time."""
    name = park.names[0]
    short = next(park.runs(name).iterdir()).parent.parent / "short"
    say(f"status with {EVENTS} and with {SHORT} events a Journal, {samples} x in turn")
    long_s, short_s = [], []
    for _ in range(samples):
        long_s.append(park.status_s([name]))
        _swap(park.runs(name), short)
        short_s.append(park.status_s([name]))
        _swap(park.runs(name), short)
    ratio = min(long_s) / min(short_s)
    return Measured(f"inv status, Journals of {EVENTS} events / of {SHORT}", round(ratio, 2),
                    f"at most {JOURNAL_GOAL:g}", ratio <= JOURNAL_GOAL,
                    f"the least of {samples}: {min(long_s):.2f} s, {min(short_s):.2f} s")


def _of_watching(park: Park, say: Say) -> Measured:
    """Measure a live run, whose Journal grows from 1,000 to 10,000 events while `inv watch` follows it."""
    name = park.names[-1]
    say(f"watching a Journal grow from {EVENTS // 10} to {EVENTS} events")
    journal = _begun(park.runs(name), name, RunId("99990101-000000-watched-0001"))
    _steps(journal, 1, EVENTS // 10)
    with subprocess.Popen(["sleep", "900"]) as alive, tempfile.TemporaryFile() as seen:
        _claim(journal.path.parent, alive.pid)
        watching = subprocess.Popen([sys.executable, "-m", "invoke", "watch", "--host", name], cwd=ROOT, stdout=seen,
                                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    env={**os.environ, **park.env})
        try:
            before = _resident_after(journal, watching, seen, EVENTS // 10)
            for first in range(EVENTS // 10, EVENTS, 500):
                _steps(journal, first + 1, first + 500)
                time.sleep(0.2)
            after = _resident_after(journal, watching, seen, EVENTS)
        finally:
            watching.kill()
            watching.wait()
            alive.kill()
    return Measured(f"memory of inv watch after {EVENTS} events / after {EVENTS // 10}", round(after / before, 3),
                    f"at most {MEMORY_GOAL:g}", after <= MEMORY_GOAL * before,
                    f"resident: {after / 1024:.1f} MiB, {before / 1024:.1f} MiB")


# --- the park ---

def _park(lab: Lab, folder: Path, count: int) -> Park:
    """Write hosts.toml with `count` names of one host, each with its own workspace."""
    file = folder / "hosts.toml"
    lab.write_inventory(file, {})
    text = file.read_text()
    head, _, login = text.partition(f"[hosts.{LAB_HOST}]")
    head = head.partition("[hosts.")[0]
    names = tuple(f"h{number:02}" for number in range(count))
    home = lab.home(LAB_HOST)
    text = head + "".join(f"[hosts.{name}]{login.replace('~/rdtops', f'~/{name}')}\n" for name in names)
    file.write_text(text)
    for name in names:
        _furnish(home / name, name)
    return Park(names, home, {"RDTOPS_HOSTS": str(file), "RDTOPS_STATE": str(folder / "state"), "COLUMNS": "120"})


def _furnish(workspace: Path, host: str) -> None:
    for number in (1, 2):
        run_id = RunId(f"2026010{number}-000000-tiny-000{number}")
        journal = _begun(workspace / "runs", host, run_id)
        _steps(journal, 1, EVENTS)
        (journal.path.parent / "exit").write_text("0\n")
        short = _begun(workspace / "short", host, run_id)
        _steps(short, 1, SHORT)
        (short.path.parent / "exit").write_text("0\n")


def _begun(runs: Path, host: str, run_id: RunId) -> Journal:
    folder = runs / run_id
    folder.mkdir(parents=True)
    spec = RunSpec(run_id, host, "now", str(runs.parent), "/r", "s", {}, preset("tiny"))
    (folder / "config.json").write_text(spec.to_json())
    (folder / "process").write_text("1 1 not-this-boot\n")
    (folder / "train.log").write_text("step\n" * 1000)
    return Journal(folder / "journal.jsonl")


def _steps(journal: Journal, first: int, last: int) -> None:
    """Write the whole Journal at once: ten thousand times fifty lines."""
    lines = [json.dumps({"kind": "step", "time_s": 1.7e9 + step, "step": step, "loss": 1 / step, **_NUMBERS})
             for step in range(first, last + 1)]
    with journal.path.open("a") as file:
        file.write("\n".join(lines) + "\n")


def _swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def _claim(folder: Path, pid: int) -> None:
    """Make the run live as long as that process."""
    (folder / "process").write_text(f"{processes.name_of(pid)}\n")


def _resident_after(journal: Journal, watching: subprocess.Popen[bytes], seen: object, step: int) -> int:
    """Return the KiB of the process after it has shown the sample that is written now, after `step` steps."""
    journal.append("sample", step=step, action_mse=0.25)
    mark = f"step {step}: predicted".encode()
    deadline_s = time.monotonic() + SEEN_S
    while mark not in os.pread(seen.fileno(), 1 << 24, 0):  # type: ignore[attr-defined]
        if time.monotonic() > deadline_s or watching.poll() is not None:
            said = os.pread(seen.fileno(), 1 << 24, 0)[-500:]  # type: ignore[attr-defined]
            raise LabError(f"inv watch did not show step {step} within {SEEN_S:.0f} s; its output: {said!r}")
        time.sleep(0.2)
    time.sleep(1.0)
    status = Path(f"/proc/{watching.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
