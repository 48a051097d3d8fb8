"""The dashboard of `inv watch`: needs the extra `dashboard` (Textual); nothing else imports what is in here."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rdtops.ops import runs
from rdtops.ops.session import Session
from rdtops.remote.hosts import Host

if TYPE_CHECKING:
    from rdtops.ops.dashboard.app import Dashboard


def is_installed() -> bool:
    return find_spec("textual") is not None


def of_hosts(session: Session, hosts: Sequence[Host], run_id: str) -> Dashboard:
    """A dashboard that follows on each host the run of that id, else the newest. Raises what keeps us from a host."""
    from rdtops.ops.dashboard.app import Choice, Dashboard

    choices, chosen = [], []
    for host in hosts:
        connection = session.connection(host)
        found = runs.list_runs(connection)
        chosen.append(runs.pick(connection, found, run_id))
        choices.append(Choice(host.name, tuple(reversed(found)), functools.partial(session.connection, host)))
    return Dashboard(choices, chosen, session.registry)
