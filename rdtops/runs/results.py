"""Results: fetch checkpoints, logs, Journal, loss curve and evaluations of a run, verified.

The run's release is not needed, so the results of old releases can be fetched too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rdtops.contract.run import Checkpoint, checkpoint_called, chosen
from rdtops.errors import DigestMismatch, RunError
from rdtops.hostlib import files, manifest, names
from rdtops.hostlib.names import BadName, EvaluationName, RelativePath
from rdtops.runs import overview
from rdtops.runs.overview import RunView
from rdtops.ssh.command import quoted
from rdtops.ssh.connection import Connection
from rdtops.transfer.transfer import TransferProgress, download, plan_download

RUN_FILES = ("config.json", "overrides.json", "launch.sh", "journal.jsonl", "train.log", "exit", "statistics.json",
             "assets.json", "metrics.jsonl", "gpus.jsonl", "checks.json")
SVG: Final = "loss.svg"  # drawn from them (report.curve)
PNG: Final = "loss.png"
EVALUATION_FILES = ("eval.json", "report.json", "trials.jsonl", "eval.log", "*.mp4")


@dataclass(frozen=True)
class Fetched:
    """The fetched results in `folder`."""

    host: str
    run: RunView
    folder: Path
    checkpoints: tuple[Checkpoint, ...]  # the requested ones, oldest first
    files: int
    sent_files: int
    sent_bytes: int
    seconds: float
    evaluations: tuple[EvaluationName, ...] = ()  # folders below eval/

    @property
    def curve(self) -> Path:
        """Return loss.png where it exists (it needs the extra `plots`), else loss.svg."""
        return self.folder / PNG if (self.folder / PNG).exists() else self.folder / SVG

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Return the newest of them."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def nothing_new(self) -> bool:
        return self.sent_files == 0


def fetch(connection: Connection, run: RunView, into: Path, *, which: str = "latest",
          progress: Callable[[str, TransferProgress], None] | None = None) -> Fetched:
    """Fetch a run into `into/<host>/<run>/`. `which` is latest, best, a step, all or none. An interrupted transfer is
    resumed; a file that is here with the same MD5 is not sent again."""
    folder = into / Path(run.host) / run.run_id
    chosen = chosen_of(connection, run, which)
    remote = str(overview.paths(connection, run).root)
    evaluations = dict(_evaluation_files(connection, remote))
    plans = [plan_download(connection, remote, folder, files=[*_run_files(connection, remote), *evaluations])]
    plans += [plan_download(connection, c.path, folder / "checkpoints" / c.name) for c in chosen]
    outcomes = [download(connection, p, None if progress is None else lambda x: progress("results", x)) for p in plans]
    for checkpoint, outcome in zip(chosen, outcomes[1:], strict=True):
        _verify(folder / "checkpoints" / checkpoint.name, checkpoint, outcome.md5s)
    files.write_whole(folder / "run.json", json.dumps(run.to_json(), indent=1) + "\n")
    return Fetched(run.host, run, folder, tuple(chosen), sum(len(p.items) for p in plans),
                   sum(o.sent_files for o in outcomes), sum(o.sent_bytes for o in outcomes),
                   sum(o.seconds for o in outcomes),
                   tuple(sorted(set(evaluations.values()))))


def chosen_of(connection: Connection, run: RunView, which: str) -> list[Checkpoint]:
    """Return the checkpoints that `which` names, oldest first."""
    if which == "none":
        return []
    if which == "all":
        return overview.checkpoints(connection, run)[0]
    one = choose(connection, run, which)
    return [one] if one else []


def choose(connection: Connection, run: RunView, which: str) -> Checkpoint | None:
    """Return the checkpoint that `which` (latest, best or a step) names; None when `latest` is requested and there is
    none yet."""
    whole, unfinished = overview.checkpoints(connection, run)
    found = chosen(whole, which)
    if found is not None or which == "latest":
        return found
    existing = f"checkpoints: {', '.join(c.name for c in whole) or 'none'}"
    if which == "best":
        raise RunError(f"{run.host}: no checkpoint of {run.run_id} has a validation loss; {existing}",
                       remedy="--checkpoint latest   # or a step")
    half = " (it exists, but is incomplete)" if checkpoint_called(which) in unfinished else ""
    raise RunError(f"{run.host}: {run.run_id} has no checkpoint {which!r}{half}; {existing}",
                   remedy=f"inv checkpoints --host {run.host} --run {run.run_id}")


def _run_files(connection: Connection, root: str) -> list[str]:
    """Return those of RUN_FILES that exist."""
    listed = connection.run_shell(f"cd {quoted(root)} && ls -1d {' '.join(RUN_FILES)} 2>/dev/null || :").out.split()
    return [name for name in RUN_FILES if name in listed]


def _evaluation_files(connection: Connection, root: str) -> Iterator[tuple[RelativePath, EvaluationName]]:
    """Yield reports and finished videos, relative to the run folder, each with its evaluation; the name of an
    unfinished video begins with a dot. Other files in the folder are not fetched."""
    wanted = " -o ".join(f"-name {quoted(name)}" for name in EVALUATION_FILES)
    find = f"find eval -type f ! -name '.*' \\( {wanted} \\)"
    for line in connection.run_shell(f"cd {quoted(root)} && {find} 2>/dev/null || :").out.splitlines():
        with suppress(BadName):
            path = names.relative_path(line)
            top, _, rest = path.partition("/")
            if top == "eval" and "/" in rest:
                yield path, names.evaluation_name(rest.partition("/")[0])


def _verify(folder: Path, checkpoint: Checkpoint, md5s: Mapping[str, str]) -> None:
    """Compare `md5s`, which the transfer computed while writing each file here, with the manifest that the trainer
    wrote, whose digest is known. Raises DigestMismatch."""
    sealed = manifest.read(folder)
    wrong = ["manifest.json"] if sealed is None else [f"{file.path}: MD5 differs" for file in sealed.files
                                                      if md5s.get(file.path) != file.md5]
    if sealed is not None and sealed.digest != checkpoint.digest:
        wrong.append("manifest.json differs from the host's")
    if wrong:
        raise DigestMismatch(f"{folder}: {'; '.join(wrong[:5])}", remedy="inv fetch-results   # again")
