"""Releases: the code on a host, one immutable folder for each snapshot that was deployed, and which one is current.

`inv train` runs this tree, which must be deployed. A rollback overrides that until the next deploy.
"""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rdtops.contract.journal import LATEST_S
from rdtops.errors import RunError
from rdtops.hostlib import fields
from rdtops.on_host import release_keeper
from rdtops.ssh.command import quoted
from rdtops.ssh.connection import Connection


@dataclass(frozen=True)
class Release:
    """A release on the host; `users` are the runs and evaluations that still use it."""

    name: str
    deployed_s: float  # last deploy, Unix time of the host
    users: tuple[str, ...]


@dataclass(frozen=True)
class RolledBack:
    """A rollback in force: trainings run `to`, whatever tree this laptop has."""

    host: str
    to: str
    before: str  # what was current
    by: str  # user@laptop
    time_s: float

    @property
    def words(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.time_s))
        return (f"{self.host} was rolled back to {self.to} ({self.by}, {when}): trainings run it, not this tree; "
                f"inv deploy --host {self.host} ends it")


def settle(connection: Connection, name: str) -> tuple[str, ...]:
    """Make `name` the current release after its deploy, remove old unused releases, and return their names."""
    answer = connection.call(release_keeper, {"op": "settle", "workspace": connection.workspace, "name": name,
                                                "keep": connection.host.keep_releases})
    return tuple(fields.words(fields.table(answer).get("removed")))


def rolled_back(connection: Connection) -> RolledBack | None:
    """Return the rollback in force, None where `inv train` runs this tree. Raises RunError for a damaged one."""
    path = f"{connection.workspace}/{release_keeper.ROLLED_BACK}"
    content = connection.run_shell(f"cat {quoted(path)} 2>/dev/null || :").out
    return _rolled_back(connection.host.name, path, content) if content else None


def roll_back(connection: Connection, to: str = "") -> RolledBack:
    """Switch trainings to the release before the current one, or to `to` (a unique beginning of its name suffices).
    Raises RunError naming the existing releases."""
    host, workspace = connection.host.name, connection.workspace
    answer = fields.table(connection.call(release_keeper, {"op": "list", "workspace": workspace}))
    found = [Release(fields.text(r.get("name")), _time_s(r.get("deployed_s")), tuple(fields.words(r.get("users"))))
             for r in fields.rows(answer.get("releases"))]
    if not found:
        raise RunError(f"{host}: nothing was deployed to {workspace}/releases", remedy=f"inv deploy --host {host}")
    current = fields.text(fields.table(answer.get("rolled_back")).get("to")) or found[0].name
    chosen = _named(host, found, to) if to else _before(host, found, current)
    request = {"to": chosen, "before": current, "by": f"{getpass.getuser()}@{socket.gethostname()}"}
    connection.call(release_keeper, {"op": "roll_back", "workspace": workspace, **request})
    return RolledBack(host, chosen, current, request["by"], time.time())


def _before(host: str, found: Sequence[Release], current: str) -> str:
    names = [release.name for release in found]
    older = names[names.index(current) + 1:] if current in names else names
    if not older:
        raise RunError(f"{host}: there is no release before {current}; {_there(found)}",
                       remedy=f"git checkout …   # the code to run, then: inv deploy --host {host}")
    return older[0]


def _named(host: str, found: Sequence[Release], to: str) -> str:
    matching = [r.name for r in found if r.name == to] or [r.name for r in found if r.name.startswith(to)]
    if len(matching) != 1:
        which = "several releases begin with" if matching else "there is no release"
        raise RunError(f"{host}: {which} {to!r}; {_there(found)}",
                       remedy=f"inv rollback --host {host} --to {found[-1].name}")
    return matching[0]


def _there(found: Sequence[Release]) -> str:
    rows = (f"{r.name} ({time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(r.deployed_s))}"
            f"{', used by ' + r.users[0] if r.users else ''})" for r in found)
    return f"releases, newest first: {', '.join(rows)}"


def _rolled_back(host: str, path: str, content: str) -> RolledBack:
    try:
        values = fields.table(fields.loads(content))
    except ValueError:
        values = {}
    to, before, by = (fields.text(values.get(name)) for name in ("to", "before", "by"))
    if not to:
        raise RunError(f"{host}: {path} is damaged: it names no release",
                       remedy=f"inv deploy --host {host}   # ends the rollback; inv rollback --host {host} --to ...")
    return RolledBack(host, to, before, by, _time_s(values.get("time_s")))


def _time_s(value: object) -> float:
    time_s = fields.number(value)
    return time_s if time_s is not None and 0 <= time_s <= LATEST_S else 0.0
