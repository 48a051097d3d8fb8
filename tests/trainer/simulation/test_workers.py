"""Workers die: by signals, by exceptions, in silence. Each death is real, of a real process, by its pid."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest

from rdtops.errors import SimulatorError, WeightsError
from rdtops.hostlib import processes
from rdtops.lab import lab_processes
from rdtops.trainer.simulation import workers
from rdtops.trainer.simulation.workers import Done, Lost
from tests.trainer.conftest import REPOSITORY
from tests.trainer.freezing import can_freeze, frozen
from tests.trainer.simulation.odd_jobs import doubling, dying, lingering, refusing


def did(folder, jobs, processes, **options):
    return {r.job: r for r in workers.results(partial(doubling, folder), jobs, processes, **options)}


def children():
    return [pid for pid in lab_processes.family(os.getpid()) if "spawn_main" in lab_processes.command_line(pid)]


def test_every_job_is_done_once_whatever_the_number_of_processes(tmp_path):
    assert did(tmp_path, range(5), 2) == {n: Done(n, 2 * n, 1) for n in range(5)}
    assert len(list(tmp_path.glob("pid-*"))) <= 2
    assert children() == []


def test_a_killed_worker_costs_nothing_but_another_attempt(tmp_path):
    found = did(tmp_path, [1, ("killed", False), 2], 2)
    assert found == {1: Done(1, 2, 1), 2: Done(2, 4, 1), ("killed", False): Done(("killed", False), "killed", 2)}


def test_a_job_that_kills_every_worker_is_lost_and_the_others_are_done(tmp_path):
    found = did(tmp_path, [("killed", True), ("raised", True), 1, 2], 1)
    assert found[("killed", True)] == Lost(("killed", True), "the process was killed by SIGKILL")
    assert found[("raised", True)] == Lost(("raised", True), "ValueError: raised")
    assert (found[1], found[2]) == (Done(1, 2, 1), Done(2, 4, 1))


def test_a_worker_that_says_nothing_is_ended(tmp_path):
    found = did(tmp_path, [("silent", False), 1], 1, silence_s=5)  # a worker needs a second or two to begin
    assert found[("silent", False)] == Done(("silent", False), "silent", 2)
    assert found[1] == Done(1, 2, 1)


def test_what_every_worker_would_meet_is_raised():
    with pytest.raises(WeightsError, match="do not fit") as caught:
        list(workers.results(refusing, [1], 1))
    assert caught.value.remedy == "others"
    with pytest.raises(SimulatorError, match=r"3 processes in a row ended before they were ready.*SIGSEGV"):
        list(workers.results(dying, [1], 1))
    assert children() == []


def test_whoever_stops_listening_leaves_no_process_behind(tmp_path):
    results = workers.results(partial(doubling, tmp_path), range(5), 2)
    next(results)
    results.close()
    assert children() == []


def test_a_worker_that_does_not_end_keeps_nobody(tmp_path):
    begun_s = time.monotonic()
    results = workers.results(partial(lingering, tmp_path), [1, "raised", -1, 2], 2)
    first = next(results)
    assert first == Done(1, 1, 1)
    assert Lost("raised", "ValueError: raised") in list(itertools.islice(results, 2))
    results.close()  # one of them is stopped
    assert children() == []
    assert time.monotonic() - begun_s < 60


@can_freeze
def test_a_worker_that_waits_for_a_disk_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "KILLED_S", 0.5)
    results = workers.results(partial(doubling, tmp_path), [1, ("silent", True)], 1)
    assert next(results) == Done(1, 2, 1)
    (worker,) = children()
    with frozen(worker):
        results.close()
        assert children() == [worker]
    latest_s = time.monotonic() + 30
    while children() and time.monotonic() < latest_s:
        time.sleep(0.05)
    assert children() == []


EVALUATES = """
import sys
from functools import partial
from pathlib import Path
from tests.trainer.simulation import odd_jobs
from rdtops.trainer.simulation import workers
if __name__ == "__main__":
    for one in workers.results(partial(odd_jobs.lingering, Path(sys.argv[1])), [-1, 1], 2):
        pass
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_workers_go_with_their_parent_whatever_they_do(tmp_path, sent):
    program = tmp_path / "evaluates.py"
    program.write_text(EVALUATES)
    with subprocess.Popen([sys.executable, str(program), str(tmp_path)], cwd=REPOSITORY,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)}) as parent:
        try:
            until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)  # one is stopped, the other has done its job
            pids = [int(path.name.split("-")[1]) for path in tmp_path.glob("pid-*")]
            for pid in pids:  # a terminal and `inv stop` signal all of them: this is the parent's affair
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.5)
            assert all(processes.start_time(pid) for pid in pids)
            parent.send_signal(sent)
            until(lambda: not any(processes.start_time(pid) for pid in pids))
        finally:
            parent.kill()


def until(there: Callable[[], bool]) -> None:
    latest_s = time.monotonic() + 60
    while not there():
        assert time.monotonic() < latest_s
        time.sleep(0.05)
