"""How real trainings end: by errors, kills and signals, with loader workers and without, by hand and supervised. Each
must be gone soon, with the checkpoint that is promised, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdtops.contract.run import RunSpec
from rdtops.hostlib import processes
from rdtops.hostlib.files import text_of
from rdtops.supervisor import family
from rdtops.trainer import child_processes
from tests.trainer.conftest import REPOSITORY, events, losses
from tests.trainer.freezing import can_freeze, frozen

GONE_S = 10.0  # the promise
BUSY_S = 120.0  # for what is promised of no time, on a busy machine
LONG = ("max_steps=5000", "checkpoint_every_steps=5000", "sample_every_steps=0", "heldout_share=0")
TRAIN = "rdtops.trainer.train"


@dataclass(frozen=True)
class Started:
    """A training and its processes. They are known by their run, wherever they went."""

    spec: RunSpec
    process: subprocess.Popen[bytes]

    @property
    def members(self) -> list[int]:
        return processes.carrying(f"RDTOPS_RUN={self.spec.run_id}")

    @property
    def ranks(self) -> list[int]:
        return [rank.pid for rank in family.ranks(self.spec.run_id)]

    @property
    def workers(self) -> list[int]:
        return [worker.pid for worker in family.workers(self.spec.run_id)]

    @property
    def launcher(self) -> int:
        (pid,) = (pid for pid in self.members if "rdtops.trainer.process_group" in words_of(pid)
                  and "rdtops.supervisor" not in words_of(pid))
        return pid

    @property
    def log(self) -> str:
        return Path(self.spec.paths.log).read_text(errors="replace")

    def wait_for_steps(self, count: int) -> None:
        self.wait(lambda: len(losses(self.spec)) >= count, BUSY_S)

    def wait_for_end(self, limit_s: float, left: Sequence[int] = ()) -> float:
        """Wait until no process is left, but for those named. Return the seconds."""
        begun_s = time.monotonic()
        self.wait(lambda: self.process.poll() is not None and set(self.members) <= set(left), limit_s)
        return time.monotonic() - begun_s

    def wait(self, until: Callable[[], bool], limit_s: float) -> None:
        latest_s = time.monotonic() + limit_s
        while not until():
            assert time.monotonic() < latest_s, [(pid, words_of(pid)) for pid in self.members] + [self.log[-3000:]]
            time.sleep(0.05)


def words_of(pid: int) -> list[str]:
    return text_of(f"/proc/{pid}/cmdline").split("\0")


@pytest.fixture
def begin(prepare) -> Iterator[Callable[..., Started]]:
    """`begin(2, "by hand", ranks=1)`: start a training with two loader workers a rank, and end what is left of it."""
    begun: list[Started] = []

    def start(workers: int, how: str, *, ranks: int = 1, module: str = TRAIN, before: Sequence[str] = (),
              more: Sequence[str] = ()) -> Started:
        spec = prepare(f"ends-{os.getpid()}-{time.monotonic_ns()}", *LONG, f"loader_workers={workers}",
                       f"num_processes={ranks}")
        config = str(spec.paths.config)
        words = [sys.executable, "-m", *([module] if module == TRAIN else [module, TRAIN]), config, *more]
        if how != "by hand":
            words = [sys.executable, "-m", "rdtops.trainer.process_group", "--num_processes", str(ranks), *words[1:]]
        if how == "supervised":
            words = [sys.executable, "-m", "rdtops.supervisor", config, "restarts=0", "--", *words]
        with Path(spec.paths.log).open("ab") as log:  # a pipe would be held open by what is left
            process = subprocess.Popen(
                [*before, *words], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", "RDTOPS_RUN": spec.run_id})
        begun.append(Started(spec, process))
        return begun[-1]

    yield start
    for training in begun:
        family.end(training.spec.run_id)
        training.process.wait(BUSY_S)


# errors and kills ---------------------------------------------------------------------------------------------------

@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    yield


@pytest.mark.parametrize(("how", "ranks", "hold"), [
    ("by hand", 1, stopped),
    pytest.param("by hand", 1, frozen, marks=[can_freeze, pytest.mark.slow]),
    pytest.param("launched", 2, stopped, marks=pytest.mark.slow),
    pytest.param("supervised", 1, stopped, marks=pytest.mark.slow),
    pytest.param("supervised", 2, stopped, marks=pytest.mark.slow)])
def test_a_training_that_fails_is_gone_whatever_its_children_do(begin, how, ranks, hold) -> None:
    training = begin(2, how, ranks=ranks, module="tests.trainer.burdened")
    training.wait_for_steps(2)
    held, killed = training.workers[:2]
    with hold(held):
        os.kill(killed, signal.SIGKILL)
        training.wait(lambda: bool(events(training.spec, "failed")), BUSY_S)
        # what cannot be killed now holds the pipe whose end the tracker of semaphores waits for
        kept = [pid for pid in training.members if pid == held or child_processes.RESOURCE_TRACKER in text_of(
            f"/proc/{pid}/cmdline")] if hold is frozen else []
        training.wait_for_end(GONE_S, left=kept)
        assert training.process.returncode == 1
        assert "DataLoader worker" in events(training.spec, "failed")[0].data["error"]
    training.wait_for_end(BUSY_S)  # nothing but what waited for its disk was left, and now that is gone


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_trainer_takes_its_children_along(begin, workers) -> None:
    training = begin(workers, "by hand")
    training.wait_for_steps(2)
    for worker in training.workers[:1]:
        os.kill(worker, signal.SIGSTOP)
    training.process.kill()
    training.wait_for_end(GONE_S)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["launched", "supervised"])
def test_a_rank_that_is_killed_ends_all(begin, how) -> None:
    training = begin(2, how, ranks=2)
    training.wait_for_steps(2)
    os.kill(training.ranks[1], signal.SIGKILL)
    training.wait(lambda: bool(events(training.spec, "failed")), BUSY_S)
    training.wait_for_end(GONE_S)
    assert events(training.spec, "failed")[0].data["error"].startswith("rank 0 lost contact with the other processes")


# signals ------------------------------------------------------------------------------------------------------------

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
OF_ALL = "every process"  # as Ctrl-C and a terminal that closes do


@pytest.mark.parametrize(("how", "ranks", "workers", "target", "sent", "code"), [
    # short forms: without workers and with, to one process and to all of them
    ("by hand", 1, 2, OF_ALL, signal.SIGINT, 130),
    ("launched", 2, 2, "launcher", signal.SIGHUP, None),
    *(pytest.param(*row, marks=pytest.mark.slow) for row in [
        *(("by hand", 1, workers, target, sent, 128 + sent)
          for workers in (0, 2) for target in ("rank", OF_ALL) for sent in STOPS),
        *(("launched", 1, 2, OF_ALL, sent, 128 + sent) for sent in STOPS),
        *(("launched", 2, workers, target, sent, None)  # the code is torchrun's own
          for workers in (0, 2) for target in ("launcher", "rank", OF_ALL) for sent in STOPS
          if (target, sent) != ("launcher", signal.SIGUSR1)),  # torchrun does not know it, and its ranks go on
        *(("supervised", ranks, 2, target, sent, None)
          for ranks in (1, 2) for target in ("supervisor", "rank", OF_ALL) for sent in STOPS
          if sent != signal.SIGHUP)])])  # a terminal takes nothing along there
def test_a_signal_saves_and_leaves_nobody(begin, how, ranks, workers, target, sent, code) -> None:
    training = begin(workers, how, ranks=ranks)
    training.wait_for_steps(2)
    deaf_to(training, training.workers)
    pids = {"rank": training.ranks[-1:], "supervisor": [training.process.pid], OF_ALL: training.members}
    for pid in [training.launcher] if target == "launcher" else pids[target]:
        processes.send([pid], sent)
    training.wait_for_end(BUSY_S)
    reached = len(losses(training.spec))
    assert [e.data["step"] for e in events(training.spec, "checkpoint")] == [reached]
    assert [e.data["step"] for e in events(training.spec, "stopped")] == [reached]
    assert not events(training.spec, "failed")
    if code is not None:
        assert training.process.returncode == code


def deaf_to(training: Started, pids: Sequence[int]) -> None:
    """Send every signal to loader workers: the training goes on."""
    for pid in pids:
        for number in STOPS:
            os.kill(pid, number)
    training.wait_for_steps(len(losses(training.spec)) + 4)
    assert set(pids) <= set(training.members)


@pytest.mark.slow
def test_a_save_that_takes_longer_than_torchrun_waits_is_not_cut_short(begin) -> None:
    """torchrun kills the ranks that are left 30 s after one has left with the code of a signal."""
    training = begin(0, "launched", ranks=2, module="tests.trainer.slow_disk", more=["45"])
    training.wait_for_steps(2)
    for rank in training.ranks:  # as `inv stop` and the supervisor do
        os.kill(rank, signal.SIGTERM)
    training.wait_for_end(BUSY_S)
    assert [e.data["step"] for e in events(training.spec, "checkpoint")] == [len(losses(training.spec))]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "ranks", "before"), [
    ("by hand", 1, ["nohup"]), ("launched", 2, ["nohup"]), ("supervised", 2, [])])
def test_a_training_that_is_detached_does_not_end_with_its_terminal(begin, how, ranks, before) -> None:
    training = begin(2, how, ranks=ranks, before=before)
    training.wait_for_steps(2)
    for pid in training.members:
        os.kill(pid, signal.SIGHUP)
    training.wait_for_steps(len(losses(training.spec)) + 20)
    assert not events(training.spec, "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("sent", STOPS[:3])
def test_a_signal_while_the_data_are_read_leaves_nobody(begin, sent) -> None:
    training = begin(2, "by hand")
    training.wait(lambda: any("rdtops.trainer.data.isolation" in words_of(pid) for pid in training.members), BUSY_S)
    os.kill(training.process.pid, sent)
    training.wait_for_end(GONE_S)
    assert training.process.returncode == 128 + sent
