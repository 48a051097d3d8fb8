"""The dashboard of `inv watch`: needs the extra `dashboard` (Textual); nothing else imports what is in here."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rdtops.errors import RdtopsError
from rdtops.runs import overview
from rdtops.ssh.hosts import Host
from rdtops.workflows.session import Session

if TYPE_CHECKING:
    from rdtops.ui.dashboard.app import Dashboard


def is_installed() -> bool:
    return find_spec("textual") is not None


def of_hosts(session: Session, hosts: Sequence[Host], run_id: str) -> Dashboard:
    """A dashboard that follows on each host the run of that id, else the newest. A host that cannot be asked is left
    out, and said; raises what keeps us from it when none is left."""
    from rdtops.ui.dashboard.app import Choice, Dashboard

    choices, chosen, problems = [], [], []
    for host in hosts:
        try:
            connection = session.connection(host)
            found = overview.list_runs(connection)
            chosen.append(overview.pick(connection, found, run_id))
        except RdtopsError as error:
            session.say(f"left out: {error.message}")
            problems.append(error)
            continue
        choices.append(Choice(host.name, tuple(reversed(found)), functools.partial(session.connection, host)))
    if not chosen:
        raise problems[0]
    return Dashboard(choices, chosen, session.registry)
