"""How a process of a training ends."""

from __future__ import annotations

import subprocess
import sys

TORN_DOWN = """
import atexit, os, sys, threading
from rdtops.trainer.loop import failures
atexit.register(os.abort)  # as a library's thread does that outlives the interpreter
threading.Thread(target=threading.Event().wait).start()
sys.stdout.write("said")
failures.end(3)
"""


def test_a_tear_down_that_aborts_takes_no_part_in_the_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", TORN_DOWN], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "said")
