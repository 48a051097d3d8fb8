"""Calls: what was asked of the hosts, one line each, in the file that RDTOPS_CALLS names. `inv drill laptop` kills by
it; whoever wonders what a command does on a host may read it. Secrets travel over stdin and so are not in it."""

from __future__ import annotations

import json
import os
import time

VARIABLE = "RDTOPS_CALLS"

task = ""  # the workflow of the command line that asks


def note(host: str, line: str) -> None:
    """A call begins."""
    path = os.environ.get(VARIABLE)
    if path:
        row = json.dumps({"time_s": round(time.time(), 3), "task": task, "host": host, "line": line[:200]})
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, row.encode() + b"\n")  # one write, so that threads do not mix
        finally:
            os.close(descriptor)
