"""Call log: one line for each command that was run on a host, in the file that RDTOPS_CALLS names. `inv drill laptop`
uses it to choose the moment of a kill; read it to see what a command does on a host. Secrets go over stdin and are not
in it."""

from __future__ import annotations

import json
import os
import time

VARIABLE = "RDTOPS_CALLS"

task = ""  # the workflow of this command line


def note(host: str, line: str) -> None:
    """Append the line of a call that begins."""
    path = os.environ.get(VARIABLE)
    if path:
        row = json.dumps({"time_s": round(time.time(), 3), "task": task, "host": host, "line": line[:200]})
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, row.encode() + b"\n")  # one write, so that threads do not mix
        finally:
            os.close(descriptor)
