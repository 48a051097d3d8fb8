"""One process for ever, and those of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from rdtops.hostlib import processes

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_name_is_of_one_process_and_of_no_later_one_with_its_pid() -> None:
    pid, started, boot = processes.name_of(os.getpid()).split()
    assert processes.is_alive(f"{pid} {started} {boot}")
    assert not processes.is_alive(f"{pid} {int(started) - 1} {boot}")
    assert not processes.is_alive(f"{pid} {started} {'0' * len(boot)}")
    assert not processes.is_alive("")


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        name = processes.name_of(ended.pid)
        assert processes.is_alive(name)
        while processes.start_time(ended.pid):
            time.sleep(0.01)
        assert processes.stat_of(ended.pid)[0] == "Z"  # nobody has asked yet how it ended
        assert not processes.is_alive(name)


@pytest.mark.parametrize(("arguments", "variables", "rank"), [
    (["rdtops.trainer.train"], {"RANK": "3"}, 3),
    (["rdtops.trainer.train"], {}, 0),
    (["accelerate.commands.launch", "rdtops.trainer.train"], {}, None),
    (["torch.distributed.run", "rdtops.trainer.train"], {}, None),
    (["a loader's worker"], {"RANK": "3", "LOCAL_RANK": "3"}, None)])
def test_a_tagged_process_is_found_and_has_a_rank_if_it_trains(arguments, variables, rank) -> None:
    tag = f"RDTOPS_RUN=processes-{os.getpid()}-{time.time_ns()}"
    environment = {**os.environ, **variables, **dict([tag.split("=")])}
    with subprocess.Popen([*SLEEPS, *arguments], env=environment) as started:
        # until it is no longer a copy of us
        while arguments[-1] not in processes.text_of(f"/proc/{started.pid}/cmdline"):
            time.sleep(0.01)
        assert processes.carrying(tag) == [started.pid]
        assert processes.rank_of(started.pid) == rank
        started.kill()


def test_a_process_whose_first_thread_has_ended_lives_as_long_as_the_others() -> None:
    program = ("import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
               "ctypes.CDLL(None).pthread_exit(None)")
    with subprocess.Popen([sys.executable, "-c", program]) as child:
        latest = time.monotonic() + 20
        while processes.stat_of(child.pid)[:1] != ["Z"] and time.monotonic() < latest:
            time.sleep(0.01)
        assert processes.stat_of(child.pid)[0] == "Z"
        assert processes.is_alive(processes.name_of(child.pid))
        child.kill()
        while processes.start_time(child.pid) and time.monotonic() < latest:
            time.sleep(0.01)
        assert not processes.start_time(child.pid)
