"""`inv bench gpu`: the trainer on a real GPU, of this machine or, with --host, of a host of hosts.toml.

The bench's own files travel with it; the trainer is the release that is deployed there.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType

from rdtops.contract.run import RunState
from rdtops.delivery.plan import Request
from rdtops.errors import RunError, UsageError
from rdtops.hostlib.fields import loads
from rdtops.runs import inquiries, overview
from rdtops.ssh.command import quoted
from rdtops.ssh.connection import Connection
from rdtops.ui.repository import ROOT, StepSummary
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.workflows.fetching import results_folder
from rdtops.workflows.session import HostSession, Session

SENT = ("proofs/__init__.py", "proofs/gpu_bench", "proofs/trainer_bench/__init__.py",
        "proofs/trainer_bench/published.py", "proofs/trainer_bench/step_cost.py")
SILENCE_S = 300.0  # rdt-1b is drawn at random on the host's CPU before a part says anything
SIGNS = {True: "[green]holds [/]", False: "[bold red]missed[/]", None: "[dim]      [/]"}


@dataclass(frozen=True)
class CardOutput(WorkflowOutput):
    """A row of the bench, as proofs.gpu_bench prints it."""

    where: str
    part: str
    name: str
    measured: float | str
    unit: str
    expected: float | str | None
    holds: bool | None
    how: str

    @property
    def exit_code(self) -> int:
        return 1 if self.holds is False else 0

    def __rich__(self) -> RenderableType:
        expected = "" if self.expected is None else f"  expected: {_plain(self.expected)}"
        return styled(SIGNS[self.holds] + "  {}: [bold]{}[/] {}[dim]{}  {}[/]", self.name, _plain(self.measured),
                      self.unit, expected, self.how)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(self)]


def measure(session: Session, *, host: str, quick: bool, only: str, keep: bool) -> Iterator[WorkflowOutput]:
    """Measure; yield a row for each thing. `quick`: half the time; `keep`: write all of them into a file that can be
    sent to somebody. Raise UsageError, RunError."""
    options = [*(["--only", only] if only else []), *(["--budget-s", "240"] if quick else [])]
    where, rows = host or "this machine", []
    for row in _there(session.hosts(host), options) if host else _here(options):
        rows.append(row)
        yield CardOutput(where, **row)
    if keep and rows:
        file = results_folder("") / f"gpu-bench-{host or 'here'}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        missed = sum(row["holds"] is False for row in rows)
        yield StepSummary(f"{len(rows)} rows, {missed} missed", {"to send": str(file)})


def _here(options: list[str]) -> Iterator[dict[str, Any]]:
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-m", "proofs.gpu_bench", *options], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as program:
        assert program.stdout
        yield from _rows(program.stdout, said)
    _check("this machine", program.returncode, said, "pip install -c constraints.txt -e '.[demo]'")


def _there(hosts: list[HostSession], options: list[str]) -> Iterator[dict[str, Any]]:
    if len(hosts) != 1:
        raise UsageError("inv bench gpu measures one host at a time", remedy="inv bench gpu --host HOST")
    session = hosts[0]
    spec, connection = session.prepare(Request("", ()), of_this_tree=True).spec, session.connect()
    for run in overview.list_runs(connection):
        if run.state is RunState.RUNNING:
            raise UsageError(f"{session.host.name}: {run.run_id} is training; the bench would slow it down",
                             remedy=f"inv stop --host {session.host.name} --run {run.run_id}")
    folder = f"{spec.workspace}/cache/gpu-bench"
    connection.run_shell(f"rm -rf {quoted(folder)} && mkdir -p {quoted(folder)} && tar -xz -C {quoted(folder)} -f -",
                         timeout_s=60, stdin=_archive())
    if spec.train.device == "cpu":  # as the lab's: the bench itself is tried
        options = [*options, "--device", "cpu", "--model", "tiny"]
    session.say(f"python -m proofs.gpu_bench on {session.host.name}, up to ten minutes")
    yield from _answers(connection, spec.release, folder, options)


def _answers(connection: Connection, release: str, folder: str, options: list[str]) -> Iterator[dict[str, Any]]:
    host, said = connection.host, list[str]()
    line, given = inquiries.module_line(host, release, "proofs.gpu_bench", ["--folder", folder, *options],
                                        packages=folder)
    with connection.stream(f"{{ {line}; }} 2>&1", silence_s=SILENCE_S) as stream:
        stream.write(given)
        stream.end_input()
        yield from _rows(_lines(stream.read), said)
        code = stream.code()
    _check(host.name, code, said, f"inv deploy --host {host.name}")


def _lines(read: Callable[[int], bytes]) -> Iterator[str]:
    rest = b""
    while piece := read(1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)


def _rows(lines: Iterable[str], said: list[str]) -> Iterator[dict[str, Any]]:
    """Read the rows. What else is printed, by a profiler or in the end, goes to `said`."""
    for line in lines:
        if line.startswith("{"):
            yield loads(line)
        elif line.strip():
            said.append(line.strip())


def _check(where: str, code: int, said: list[str], remedy: str) -> None:
    """Raise RunError, with the program's own remedy, where it ended without its rows."""
    ends_with_remedy = bool(said) and said[-1].startswith("next: ")
    if code not in (0, 1) or ends_with_remedy or (code and not said):
        own = said.pop().removeprefix("next: ") if ends_with_remedy else remedy
        raise RunError(f"{where}: {chr(10).join(said[-12:]) or f'the bench ended with exit {code}'}", remedy=own)


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in SENT:
            archive.add(ROOT / name, name, filter=lambda member: None if "__pycache__" in member.name else member)
    return packed.getvalue()


def _plain(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else value
