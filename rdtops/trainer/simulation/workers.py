"""Workers: processes that run jobs in parallel; if one dies, only its own job is affected.

A simulator is native code with a renderer: it may crash, hang, or be killed for its memory. Then a pool of the standard
library breaks as a whole. Here a new worker tries the job once more, and after that it is given up.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from rdtops.contract import exit_codes
from rdtops.errors import RdtopsError, SimulatorError
from rdtops.trainer import child_processes

log = logging.getLogger(__name__)
ATTEMPTS = 2  # of a job
SILENCE_S = 900.0  # a worker that is silent for so long hangs; loading rdt-1b from a slow disk takes minutes
DEATHS = 3  # of workers in a row before they were ready: then the next one would die too
BEAT_S = 1.0
KILLED_S = 5.0  # until killed processes are gone; one that waits for a disk or a driver is left behind

Beat = Callable[[], None]
Do = Callable[[Any], Any]
Make = Callable[[int, Beat], Do]


@dataclass(frozen=True)
class Done:
    job: Any
    value: Any
    attempt: int  # from 1


@dataclass(frozen=True)
class Lost:
    """A job during which every worker died."""

    job: Any
    reason: str


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    job: Any = None
    attempt: int = 0
    ready: bool = False
    heard_s: float = field(default_factory=time.monotonic)


def results(make: Make, jobs: Iterable[Any], processes: int, silence_s: float = SILENCE_S) -> Iterator[Done | Lost]:
    """Yield the result of each job as it ends. In every worker `make(number, beat)` returns the function that does the
    jobs; it calls `beat` while a job runs, as a heartbeat. `make` and jobs are pickled.

    An RdtopsError of `make` is raised: every other worker would fail with it too.
    """
    crew = _Crew(make, processes, silence_s, deque((job, 1) for job in jobs))
    try:
        yield from crew.work()
    finally:
        crew.dismiss()


class _Crew:
    def __init__(self, make: Make, processes: int, silence_s: float, todo: deque[tuple[Any, int]]) -> None:
        self.make, self.processes, self.silence_s, self.todo = make, processes, silence_s, todo
        self.workers: dict[Connection, _Worker] = {}
        self.deaths = 0  # in a row, before they were ready

    def work(self) -> Iterator[Done | Lost]:
        while self.todo or any(w.attempt for w in self.workers.values()):
            idle = sum(not w.attempt for w in self.workers.values())
            for _ in range(min(self.processes - len(self.workers), len(self.todo) - idle)):
                self._hire()
            for pipe in wait(list(self.workers), timeout=BEAT_S):
                assert isinstance(pipe, Connection)
                yield from self._hear(pipe)
            for pipe, worker in list(self.workers.items()):
                if time.monotonic() - worker.heard_s > self.silence_s:
                    yield from self._gone(pipe, f"the process was silent for {self.silence_s:g} s and was killed")
                elif worker.ready and not worker.attempt and self.todo:
                    self._give(pipe, worker)

    def dismiss(self) -> None:
        _kill(*(worker.process for worker in self.workers.values()))  # a renderer prints errors in its own tear-down
        for pipe in self.workers:
            pipe.close()
        self.workers.clear()

    def _hire(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the renderer
        number = min(set(range(self.processes)) - {w.number for w in self.workers.values()})
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.make, number, theirs), daemon=True)
        with child_processes.shielded():
            process.start()
        theirs.close()  # so that its death closes the pipe
        self.workers[ours] = _Worker(number, process)

    def _give(self, pipe: Connection, worker: _Worker) -> None:
        worker.job, worker.attempt = self.todo.popleft()
        worker.heard_s = time.monotonic()
        try:
            pipe.send(worker.job)
        except OSError:  # it died idle; its end is read in the next round, and another worker gets the job
            log.warning("a worker died while it was idle")

    def _hear(self, pipe: Connection) -> Iterator[Done | Lost]:
        worker = self.workers[pipe]
        worker.heard_s = time.monotonic()
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            worker.process.join(10)
            yield from self._gone(pipe, _death(worker.process.exitcode))
            return
        if kind == "ready":
            worker.ready, self.deaths = True, 0
        elif kind == "done":
            yield Done(worker.job, value, worker.attempt)
            worker.job, worker.attempt = None, 0
        elif kind == "failed":
            yield from self._gone(pipe, value)
        elif kind == "refused":
            raise value

    def _gone(self, pipe: Connection, reason: str) -> Iterator[Lost]:
        worker = self.workers.pop(pipe)
        _kill(worker.process)
        pipe.close()
        if not worker.ready:
            self.deaths += 1
            if self.deaths >= DEATHS:
                raise SimulatorError(f"{DEATHS} processes in a row ended before they were ready: {reason}",
                                     remedy="inv logs --eval   # see its end; MUJOCO_GL = \"osmesa\" in env of "
                                            "[hosts.X] of hosts.toml draws without a GPU")
        if not worker.attempt:
            return
        log.warning("attempt %d of %s: %s", worker.attempt, worker.job, reason)
        if worker.attempt < ATTEMPTS:
            self.todo.appendleft((worker.job, worker.attempt + 1))
        else:
            yield Lost(worker.job, reason)


def _kill(*killed: BaseProcess) -> None:
    """Kill processes, and wait for their end for a while."""
    for process in killed:
        process.kill()
    until_s = time.monotonic() + KILLED_S
    for process in killed:
        process.join(max(0.0, until_s - time.monotonic()))


def _death(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "the process was killed by SIGKILL"
    return f"the process ended with {exit_codes.words(code)}"


def _serve(make: Make, number: int, pipe: Connection) -> None:
    """Run a worker's loop. It ends with its parent, at the latest when its pipe is closed."""
    child_processes.end_with_parent()
    last_s = 0.0

    def beat() -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= BEAT_S:
            last_s = time.monotonic()
            pipe.send(("beat", None))

    faulthandler.enable()  # a crash of a native library leaves its Python stack in the log
    try:
        do = make(number, beat)
    except RdtopsError as error:
        pipe.send(("refused", error))
        return
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        return
    try:
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", do(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # an error of the simulator ends this job and this process only
        traceback.print_exc()
        message = error.message if isinstance(error, RdtopsError) else f"{type(error).__name__}: {error}"
        pipe.send(("failed", message))
