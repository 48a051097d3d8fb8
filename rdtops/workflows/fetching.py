"""Fetching: results and reports of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rdtops import report as pages
from rdtops.contract.journal import Journal
from rdtops.errors import DiskFull, RemoteError, RunError, TransferError, UsageError
from rdtops.report import curve
from rdtops.runs import overview, results, watch
from rdtops.runs.overview import RunView
from rdtops.runs.story import POINTS, Story
from rdtops.ssh.connection import Connection
from rdtops.ssh.inventory import layers
from rdtops.views.result_output import FetchOutput, ReportOutput
from rdtops.workflows.session import HostSession


def fetch_results(session: HostSession, *, run_id: str, which: str, into: str) -> Iterator[FetchOutput]:
    """Fetch one run, or, with `run_id` all, every run of the host, oldest first; after a failure the next one is
    fetched."""
    connection, folder = session.connect(), results_folder(into)
    session.interrupted = (f"nothing was changed there; what has arrived in {folder} stays, and the same command "
                           "continues")
    if run_id != "all":
        yield FetchOutput(_fetched(session, connection, overview.find(connection, run_id), which, folder))
        return
    failed: list[str] = []
    for run in overview.list_runs(connection):
        try:
            yield FetchOutput(_fetched(session, connection, run, which, folder))
        except DiskFull:  # the next one would not fit either
            raise
        except (RemoteError, RunError, TransferError) as error:
            session.say(f"{error.message}; continuing with the next run")
            failed.append(run.run_id)
    if failed:
        host = session.host
        raise RunError(f"{host.name}: {len(failed)} runs were not fetched: {', '.join(failed)}",
                       remedy=f"inv fetch-results --host {host.name} --run {failed[0]}")


def results_folder(into: str) -> Path:
    """Return where results go: `into`, else results/ beside the project's hosts.toml, from any folder below that."""
    if into:
        return Path(into).expanduser()
    project = layers.project_file()
    return Path(os.path.relpath(project.parent) if project else ".") / "results"


def report(session: HostSession, *, run_id: str, into: str) -> Iterator[ReportOutput]:
    """Fetch everything of a run but its checkpoints, and write its report."""
    yield _reported(session, run_id, into)


def report_here(folder: str) -> Iterator[ReportOutput]:
    """Write the report of a folder that was fetched before; no host is asked."""
    root = Path(folder).expanduser()
    yield ReportOutput(root.name, pages.describe(root))


def compare(session: HostSession, *, run_ids: Sequence[str], into: str) -> Iterator[ReportOutput]:
    """Fetch runs as `report` does, except those that are folders here, and write a page that compares them."""
    yield _compared([_reported(session, run_id, into) if not is_folder(run_id) else next(report_here(run_id))
                     for run_id in run_ids])


def compare_here(folders: Sequence[str]) -> Iterator[ReportOutput]:
    """Write a page that compares folders that were fetched before; no host is asked."""
    yield _compared([output for folder in folders for output in report_here(folder)])


def is_folder(run_id: str) -> bool:
    """Tell whether a run is named by its folder on this laptop."""
    return "/" in run_id


def _reported(session: HostSession, run_id: str, into: str) -> ReportOutput:
    connection = session.connect()
    run = overview.find(connection, run_id)
    fetched = _fetched(session, connection, run, "none", results_folder(into))
    return ReportOutput(run.run_id, fetched.report)


def _compared(reported: Sequence[ReportOutput]) -> ReportOutput:
    page = pages.compare([output.page.parent for output in reported])
    return ReportOutput(reported[0].run_id, page, tuple(output.run_id for output in reported[1:]))


def _fetched(session: HostSession, connection: Connection, run: RunView, which: str, into: Path) -> results.Fetched:
    watch.catch_up(connection, session.registry, run, session.say)
    fetched = results.fetch(connection, run, into, which=which, progress=session.progress)
    if not (fetched.nothing_new and curve.is_drawn(fetched.folder)):
        events = Journal(fetched.folder / "journal.jsonl").events(steps=POINTS)
        curve.draw(Story.from_events(events), fetched.folder, run.run_id)
    try:
        pages.describe(fetched.folder)
    except UsageError as error:  # the files are here; without a readable config.json there is no report
        session.say(error.message)
    return fetched
