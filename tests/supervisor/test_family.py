"""Whose processes the supervisor ends: those of its run, and nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rdtops.supervisor import family

RUN = "20260101-000000-family-0001"
SLEEPS = "import time; time.sleep(600)"
HANGS = ("import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
         "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
         "print('up', flush=True); time.sleep(600)")


@pytest.fixture
def start() -> Iterator:
    with ExitStack() as stack:
        def begin(program: str, run_id: str = RUN, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
            started = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE,
                                       env={**os.environ, "RDTOPS_RUN": run_id, **variables})
            stack.enter_context(started)
            stack.callback(started.kill)
            return started

        yield begin


def test_those_of_the_run_are_found_in_whatever_session_and_ended_though_they_ignore_it(start) -> None:
    stubborn, other = start(HANGS), start(SLEEPS, f"{RUN}0")
    assert stubborn.stdout.readline() == b"up\n"
    found = family.members(RUN)
    assert stubborn.pid in [member.pid for member in found]
    assert len(found) == 2  # its child has a session of its own
    ended = family.end(RUN)
    assert {process.pid for process in ended.killed} == {process.pid for process in found}
    assert ended.left == ()
    assert family.members(RUN) == []
    assert stubborn.wait(5) == -signal.SIGKILL
    assert other.poll() is None


def test_a_rank_is_the_trainer_and_not_what_names_it(start) -> None:
    rank = start(SLEEPS, RUN, "rdtops.trainer.train", RANK="3")
    start(SLEEPS, RUN, "rdtops.trainer.process_group", "rdtops.trainer.train")
    start(SLEEPS, RUN, "worker", RANK="3")
    time.sleep(0.2)  # until they have their own arguments
    assert [(member.pid, member.rank) for member in family.ranks(RUN)] == [(rank.pid, 3)]


def test_ranks_get_their_time_to_save(start) -> None:
    saves = ("import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(3))); "
             "print('up', flush=True); time.sleep(600)")
    rank = start(saves, RUN, "rdtops.trainer.train")
    assert rank.stdout.readline() == b"up\n"
    family.end(RUN, grace_s=20)
    assert rank.wait(5) == 3
