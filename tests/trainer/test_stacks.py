"""A process that is asked for its stacks writes them, and is not disturbed in what it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# poll is never begun again by the kernel after a handler: the main thread must not be interrupted
WAITS = """
import ctypes, sys
from rdtops.trainer import stacks
stacks.write_on_request()
libc = ctypes.CDLL(None, use_errno=True)
def waits():
    print("waits", flush=True)
    return libc.poll(None, 0, 3000)
print(waits(), ctypes.get_errno(), flush=True)
"""


def test_a_process_that_waits_writes_its_stacks_and_goes_on_waiting() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)}) as process:
        assert process.stdout
        assert process.stdout.readline() == "waits\n"
        for _ in range(3):
            process.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=30)
    assert out == "0 0\n"  # its time was up; -1 and EINTR (4) where it was interrupted
    assert "in waits" in err
    assert process.returncode == 0
