"""Dashboard of `inv watch`: needs the extra `dashboard` (Textual); nothing else imports its modules."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rdtops.errors import RdtopsError
from rdtops.runs import launchers, overview
from rdtops.workflows.session import HostSession

if TYPE_CHECKING:
    from rdtops.ui.dashboard.app import Dashboard


def is_installed() -> bool:
    return find_spec("textual") is not None


def of_hosts(hosts: Sequence[HostSession], run_id: str) -> Dashboard:
    """Make a dashboard that follows on each host the run of that id, else the newest. A host that cannot be
    reached is skipped with a message; raises the first error when none is left."""
    from rdtops.ui.dashboard.app import Choice, Dashboard

    choices, chosen, problems = [], [], []
    for session in hosts:
        try:
            connection = session.connect()
            found = overview.list_runs(connection)
            chosen.append(overview.pick(connection, found, run_id))
        except RdtopsError as error:
            session.say(f"skipped: {error.message}")
            problems.append(error)
            continue
        choices.append(Choice(session.host.name, tuple(reversed(found)), session.connect,
                              launchers.traits(session.host).is_local))
    if not chosen:
        raise problems[0]
    return Dashboard(choices, chosen, hosts[0].registry)
