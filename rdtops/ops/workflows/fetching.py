"""What of a run comes home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rdtops.contract.journal import Journal
from rdtops.errors import DiskFull, RemoteError, RunError, TransferError, UsageError
from rdtops.ops import report as pages
from rdtops.ops import results, runs, watch
from rdtops.ops.report import curve
from rdtops.ops.runs import RunView
from rdtops.ops.session import Session
from rdtops.ops.story import POINTS, Story
from rdtops.ops.views import Reported
from rdtops.remote.connection import Connection
from rdtops.remote.hosts import Host


def fetch_results(session: Session, host: Host, *, run_id: str, which: str, into: str) -> Iterator[results.Fetched]:
    """`run_id` all: every run of the host, oldest first; one that cannot be fetched does not keep the others."""
    connection, folder = session.connection(host), Path(into).expanduser()
    if run_id != "all":
        yield _fetched(session, connection, runs.find(connection, run_id), which, folder)
        return
    failed: list[str] = []
    for run in runs.list_runs(connection):
        try:
            yield _fetched(session, connection, run, which, folder)
        except DiskFull:  # the next one would not fit either
            raise
        except (RemoteError, RunError, TransferError) as error:
            session.say(f"{error.message}; going on with the next run")
            failed.append(run.run_id)
    if failed:
        raise RunError(f"{host.name}: {len(failed)} runs were not fetched: {', '.join(failed)}",
                       remedy=f"inv fetch-results --host {host.name} --run {failed[0]}")


def report(session: Session, host: Host, *, run_id: str, into: str) -> Iterator[Reported]:
    """Of a run on a host: everything but its checkpoints comes home first."""
    connection = session.connection(host)
    run = runs.find(connection, run_id)
    fetched = _fetched(session, connection, run, "none", Path(into).expanduser())
    yield Reported(run.run_id, fetched.report)


def report_here(_: Session, *, folder: str) -> Iterator[Reported]:
    """Of a folder that was fetched before; no host is asked."""
    root = Path(folder).expanduser()
    yield Reported(root.name, pages.describe(root))


def _fetched(session: Session, connection: Connection, run: RunView, which: str, into: Path) -> results.Fetched:
    watch.catch_up(connection, session.registry, run, session.say)
    fetched = results.fetch(connection, run, into, which=which, progress=session.progress(connection.host))
    if not (fetched.nothing_new and curve.is_drawn(fetched.folder)):
        curve.draw(Story.of(Journal(fetched.folder / "journal.jsonl").events(steps=POINTS)), fetched.folder, run.run_id)
    try:
        pages.describe(fetched.folder)
    except UsageError as error:  # the files are here; a run without a readable config.json has nothing to describe
        session.say(error.message)
    return fetched
