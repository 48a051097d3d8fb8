"""A process that waits as for a disk that does not answer (state D): not even SIGKILL ends it. cgroup v1 makes one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FREEZER = Path("/sys/fs/cgroup/freezer")
THAWED_S = 60.0
can_freeze = pytest.mark.skipif(os.geteuid() != 0 or not (FREEZER / "cgroup.procs").exists(),
                                reason="needs root and a cgroup v1 freezer")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Let a process wait, whatever it gets, until this is left."""
    folder = FREEZER / f"rdtops-{pid}"
    folder.mkdir()
    (folder / "cgroup.procs").write_text(str(pid))
    (folder / "freezer.state").write_text("FROZEN")
    try:
        yield
    finally:
        (folder / "freezer.state").write_text("THAWED")
        latest_s = time.monotonic() + THAWED_S
        while (folder / "cgroup.procs").read_text() and time.monotonic() < latest_s:
            time.sleep(0.05)
        folder.rmdir()
