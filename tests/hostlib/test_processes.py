"""One process for ever, and those of a run."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdtops.hostlib import processes

ROOT = Path(__file__).parents[2]
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
    (["rdtops.trainer.process_group", "rdtops.trainer.train"], {}, None),
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


def started(program: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", f"import os, signal, sys, time; {program}"],
                               stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    return process


IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
LEAVES = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('up', flush=True); time.sleep(600)"
FORKS = ("signal.signal(signal.SIGTERM, lambda *_: os.fork() and sys.exit(0)); print('up', flush=True)\n"
         "while True: time.sleep(1)")


def test_a_recycled_pid_is_not_hit() -> None:
    with started(LEAVES) as other:
        (found,) = processes.processes_of([other.pid])
        recycled = processes.Process(found.pid, str(int(found.started) - 1))
        assert not recycled.send(signal.SIGKILL)
        assert other.poll() is None
        assert found.send(signal.SIGKILL)


def test_what_listens_leaves_by_itself_and_the_rest_is_killed() -> None:
    with started(LEAVES) as polite, started(IGNORES) as stubborn:
        ended = processes.end(lambda: [polite.pid, stubborn.pid], leave_s=1.0)
        assert {process.pid for process in ended.found} == {polite.pid, stubborn.pid}
        assert ([process.pid for process in ended.killed], ended.left) == ([stubborn.pid], ())
        assert (polite.wait(), stubborn.wait()) == (3, -signal.SIGKILL)


def test_a_frozen_process_hears_that_it_is_to_end() -> None:
    with started(LEAVES) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        assert processes.end(lambda: [frozen.pid], leave_s=20.0).killed == ()
        assert frozen.wait() == 3


def test_those_who_are_asked_first_have_their_grace_while_the_others_hear_nothing() -> None:
    saves = LEAVES.replace("sys.exit(3)", "(time.sleep(0.5), sys.exit(3))")
    with started(saves) as rank, started(LEAVES) as launcher:
        ended = processes.end(lambda: [rank.pid, launcher.pid], grace_s=20.0,
                        first=lambda found: [process for process in found if process.pid == rank.pid])
        assert [process.pid for process in ended.killed] == [launcher.pid]
        assert (rank.wait(), launcher.wait()) == (3, -signal.SIGKILL)


def test_what_is_forked_while_it_is_told_to_end_is_ended_too() -> None:
    tag = f"RDTOPS_RUN=forks-{os.getpid()}-{time.time_ns()}"
    name, _, value = tag.partition("=")
    with subprocess.Popen([sys.executable, "-c", f"import os, signal, sys, time; {FORKS}"], stdout=subprocess.PIPE,
                          env={**os.environ, name: value}) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"up\n"
        ended = processes.end(lambda: processes.carrying(tag), leave_s=0.3)
        assert len(ended.found) > 1
        assert processes.carrying(tag) == []


def test_processes_are_ended_in_one_place() -> None:
    """A loop of SIGTERM, grace, SIGKILL anywhere else would forget one of: recycled pids, frozen ones, forks."""
    files = [*(ROOT / "rdtops").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    asking = {file for file in files for function in ast.walk(ast.parse(file.read_text()))
              if isinstance(function, ast.FunctionDef) and _signals(function) >= {"SIGTERM", "SIGKILL"}}
    assert asking == {Path(processes.__file__)}


def _signals(function: ast.FunctionDef) -> set[str]:
    """The signals that a function names."""
    return {node.attr for node in ast.walk(function)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "signal"}
