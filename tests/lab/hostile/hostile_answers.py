"""What a laptop makes of a host that answers what it likes:
`python -m tests.lab.hostile.hostile_answers HOSTS FOLDER CASE`.

Each far side is a script of FOLDER in place of the host's Python; it is sent our program and does not run it. Prints
how each ended, and the most memory that this process has needed until then."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rdtops.errors import RdtopsError
from rdtops.on_host import prober
from rdtops.porter import wire
from rdtops.runs.poller import Question, RunPoller
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.ssh.openssh_client import SshClient
from rdtops.ssh.probe import Probe, ask
from rdtops.transfer.porter_session import session
from rdtops.transfer.transfer import plan_download, plan_upload

PROGRESS_S = 0.8  # instead of five minutes, of those that do not go on


def call(connection: Connection) -> None:
    connection.call(prober, {"probes": {}}, timeout_s=10)


def impatient_call(connection: Connection) -> None:
    connection.call(prober, {"probes": {}}, timeout_s=2)


def shell(connection: Connection) -> None:
    connection.run_shell("exec yes 'a line that has no end'")


def probes(connection: Connection) -> None:
    ask(connection, [Probe("df", "df", lambda output: output.out)])


def plan(connection: Connection) -> None:
    plan_download(connection, "/there", Path("/nowhere/here"))


def plan_up(connection: Connection) -> None:
    plan_upload(connection, Path(__file__).parent, "/there")


def plan_by_ssh(connection: Connection) -> None:
    with SshClient(connection.host) as client:
        plan_download(client, "/there", Path("/nowhere/here"))


def home_by_ssh(connection: Connection) -> None:
    with SshClient(connection.host) as client:
        client.absolute("~/there")


def piece(connection: Connection) -> None:
    with session(connection, "/there", {"do": "send"}) as spoken:
        list(spoken.pieces(spoken.hear()["bytes"]))


def news(connection: Connection) -> None:
    with RunPoller(connection) as poller:
        poller.poll("20261124-101530-x-3fa9", {"train.log": Question()})


ASKS: dict[str, Callable[[Connection], None]] = {f.__name__: f for f in (
    call, impatient_call, shell, probes, plan, plan_up, plan_by_ssh, home_by_ssh, piece, news)}


def ended(connection: Connection, asks: Callable[[Connection], None]) -> dict[str, Any]:
    start_s, message = time.monotonic(), ""
    try:
        asks(connection)
        kind = "nothing was raised"
    except RdtopsError as error:
        kind, message = type(error).__name__, error.message
    except BaseException as error:  # what must not come
        kind, message = f"not ours: {type(error).__name__}", str(error)[:500]
    return {"kind": kind, "message": message, "seconds": time.monotonic() - start_s,
            "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Of this program: ru_maxrss begins with what the process had that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


def main(hosts: str, folder: str, *cases: str) -> None:
    """A case is NAME:HOW, the script FOLDER/NAME asked by one of ASKS."""
    real_s = wire.PROGRESS_S
    with Connection(inventory.load(Path(hosts)).host("lab")) as connection:  # one login for all
        for case in cases:
            name, _, how = case.partition(":")
            connection.host = replace(connection.host, python=str(Path(folder) / name))
            wire.PROGRESS_S = PROGRESS_S if name.startswith(("lives", "drips")) else real_s
            sys.stdout.write(json.dumps({"case": case, **ended(connection, ASKS[how])}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
