"""How a process of a training ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from rdtops.hostlib import processes
from rdtops.hostlib.processes import Process

TORN_DOWN = """
import atexit, os, sys, threading
from rdtops.trainer.loop import failures
atexit.register(os.abort)  # as a library's thread does that outlives the interpreter
threading.Thread(target=threading.Event().wait).start()
sys.stdout.write("said")
"""
# what wraps the streams, as W&B does, hangs
HANGS = """
import sys, time
from rdtops.trainer.loop import failures
class Wrapped:
    def write(self, text): ...
    def flush(self): time.sleep(600)
sys.stdout = Wrapped()
failures.end(3)
"""
CHILDREN = """
import os, subprocess, sys
from rdtops.trainer import child_processes
from rdtops.trainer.loop import failures
def start(**more):
    return subprocess.Popen(["sh", "-c", "sleep 600; true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            env={**os.environ, **more}, start_new_session=True).pid
print(start(), start(**{child_processes.OUTLIVES: "1"}), flush=True)
"""


@pytest.fixture
def running() -> Iterator[Callable[[int], list[Process]]]:
    """`running(pid)`: the living processes of a session. They are ended with the test."""
    found: list[Process] = []

    def members(session: int) -> list[Process]:
        there = processes.processes_of(pid for pid in processes.own() if processes.stat_of(pid)[3:4] == [str(session)])
        found.extend(there)
        return there

    yield members
    for process in found:
        process.send(signal.SIGKILL)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_tear_down_that_aborts_takes_no_part_in_the_exit_code() -> None:
    done = run(TORN_DOWN + "failures.end(3)")
    assert (done.returncode, done.stdout) == (3, "said")


@pytest.mark.parametrize(("main", "code", "says"), [
    ("lambda: 3", 3, ""), ("lambda: sys.exit(143)", 143, ""), ("lambda: sys.exit('no')", 1, "no"),
    ("lambda: sys.exit()", 0, ""), ("lambda: 1 / 0", 1, "ZeroDivisionError: division by zero")])
def test_a_program_ends_with_the_code_of_its_main_function_however_that_ends(main, code, says) -> None:
    done = run(TORN_DOWN + f"failures.leave({main})")
    assert (done.returncode, done.stdout) == (code, "said")
    assert done.stderr.strip().endswith(says)


def test_an_end_that_hangs_is_cut_short_with_its_stacks_and_keeps_its_code() -> None:
    begun_s = time.monotonic()
    done = run(HANGS)
    assert done.returncode == 3
    assert "has not ended within 2 s" in done.stderr
    assert "in flush" in done.stderr
    assert time.monotonic() - begun_s < 30


def test_an_end_leaves_no_child_but_those_that_end_by_themselves(running) -> None:
    done = run(CHILDREN + "failures.end(0)")
    killed, spared = map(int, done.stdout.split())
    spared_family = running(spared)
    assert not running(killed)
    assert len(spared_family) == 2  # a shell and its child
