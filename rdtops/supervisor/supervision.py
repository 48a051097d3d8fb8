"""Supervision: start attempts until the training has finished, is asked to stop, or a restart cannot help."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdtops.contract import diagnosis, overrides
from rdtops.contract.config import TrainConfig
from rdtops.contract.diagnosis import Diagnosis, Evidence
from rdtops.contract.diagnosis.ended import STATES
from rdtops.contract.journal import Journal
from rdtops.contract.recovery import Recovery
from rdtops.contract.run import RunSpec
from rdtops.errors import RunError
from rdtops.hostlib import files, locks, processes
from rdtops.hostlib.processes import Process
from rdtops.supervisor import evidence_on_host, family, supervised_program
from rdtops.supervisor.gpu_sampler import GpuSampler
from rdtops.supervisor.pulse import StallDetector
from rdtops.supervisor.supervised_program import Program

log = logging.getLogger("rdtops.supervisor")
LOOK_S = 1.0
STACK_S = 0.5  # for one process to write its stack
WORKERS_SHOWN = 4  # loader workers whose stacks are written: most often all of them wait for the same
EXIT, LOCK = "exit", "supervisor"
MEMORY = ("out_of_gpu_memory", "out_of_host_memory")


@dataclass(frozen=True)
class AttemptVerdict:
    """The decision after the end of an attempt."""

    diagnosis: Diagnosis
    wait_s: float | None  # until the next attempt; None: there is none
    train: TrainConfig  # configuration of the next attempt


class Supervision:
    """The supervision of one launch. It knows earlier attempts from the Journal."""

    def __init__(self, spec: RunSpec, words: Sequence[str], recovery: Recovery) -> None:
        self.spec, self.words, self.recovery = spec, list(words), recovery
        self.root = Path(spec.paths.root)
        self.journal = Journal(Path(spec.paths.journal))
        self.train = overrides.used(spec)
        self.asked: signal.Signals | None = None
        self.detector = StallDetector(self.journal.path, Path(spec.paths.log), self.train, recovery)
        self.gpus = GpuSampler(Path(spec.paths.gpus), self.train.gpus_required)

    def run(self) -> int:
        """Run the attempts. Return the exit code of the last one, which is also written to the file `exit`."""
        with self._alone():
            supervised_program.hear()
            self._take_over()
            try:
                code = self._attempts()
            except BaseException:  # a bug in the supervisor must not leave an unsupervised training
                family.end(self.spec.run_id)
                raise
            self._tell_asked()
            files.write_whole(self.root / EXIT, f"{_shell_code(code)}\n")
            return _shell_code(code)

    def _attempts(self) -> int:
        """Run attempts until none follows. Return the exit code of the last one."""
        code = 143
        while not self._is_to_stop():
            code = self._attempt()
            verdict = self._verdict(code)
            # if only the launcher of the ranks was killed, the ranks may work: let them save first
            family.end(self.spec.run_id, grace_s=self.recovery.grace_s if code < 0 else 0.0)
            self._tell_end(code, verdict)
            if verdict.wait_s is None:
                break
            self._prepare(verdict)
        return code

    # one attempt ----------------------------------------------------------------------------------------------------

    def _attempt(self) -> int:
        attempt = self.detector.attempts + 1
        log_path = Path(self.spec.paths.log)
        self._tell(
            "attempt", attempt=attempt, log_offset=_size(log_path), log_line=_lines(log_path) + 1,
            oom_kills=evidence_on_host.counted_oom_kills(), **{
                name: getattr(self.train, name) for name in (
                    "batch_size_per_process", "gradient_accumulation_steps", "gradient_checkpointing")})
        self.detector.look()
        self.detector.begin()
        running = Program(self.words)
        was_overdue = False
        while running.exit_code is None:
            self._hear(supervised_program.wait(LOOK_S), running)
            self.detector.look()
            self.gpus.look()
            self._watch_start(attempt)
            if self.detector.is_stuck:
                self._end_stuck(attempt)
            elif self.detector.is_overdue:
                was_overdue = True
                self._end_overdue()
        self.detector.look()
        return self._as_told(running.exit_code, was_overdue)

    def _hear(self, asked: signal.Signals | None, running: Program | None = None) -> None:
        """Handle a stop request: signal the ranks to save and exit; before there are any, end their launcher."""
        if asked is None:
            return
        self.asked = signal.SIGTERM if asked is signal.SIGINT else asked
        log.info("%s: asking the ranks to save and leave", asked.name)
        told = [rank.send(self.asked) for rank in family.ranks(self.spec.run_id)]
        if running and not any(told):
            running.send(signal.SIGTERM)

    def _watch_start(self, attempt: int) -> None:
        """Record a long silence before the first step, with the stacks of the ranks in the log, and its end."""
        detector = self.detector
        if detector.is_silent == detector.is_told:
            return
        detector.is_told = detector.is_silent
        if not detector.is_silent:
            self._tell("heard", attempt=attempt)
            return
        ranks = self._record_silence("silent", attempt)
        log.warning("nothing was written for %.0f s; the stacks of the ranks:", detector.silent_s)
        self._write_stacks(ranks or family.members(self.spec.run_id))
        detector.pass_over_log()

    def _record_silence(self, kind: str, attempt: int) -> list[Process]:
        """Record that the ranks are silent. Return them."""
        ranks = family.ranks(self.spec.run_id)
        self._tell(
            kind, attempt=attempt, silent_s=round(self.detector.silent_s, 1), limit_s=round(self.detector.limit_s, 1),
            ranks=[{"rank": r.rank, "pid": r.pid, "state": r.state} for r in ranks])
        return ranks

    def _end_stuck(self, attempt: int) -> None:
        """Write the stacks of all ranks to the log, then kill them."""
        ranks = self._record_silence("stuck", attempt)
        log.error("no event for %.0f s: the stacks of all ranks, then the end", self.detector.silent_s)
        self._write_stacks(ranks, wake=True)
        family.end(self.spec.run_id)

    def _end_overdue(self) -> None:
        """Write the stacks of the processes of a training that has said its last word, then kill them."""
        word = self.detector.last_word
        assert word
        message = f"{word.kind}, but its processes had not ended {self.detector.leaving_s:.0f} s later, and were ended"
        self._tell("warning", message=message)
        log.error("%s; the stacks of the ranks:", message)
        self._write_stacks(family.ranks(self.spec.run_id), wake=True)
        family.end(self.spec.run_id)

    def _write_stacks(self, ranks: Sequence[Process], *, wake: bool = False) -> None:
        """Let processes write their stacks to the log, the ranks last. `wake`: also those that were stopped."""
        for process in [*family.workers(self.spec.run_id)[:WORKERS_SHOWN], *ranks]:
            if process.state in STATES:
                log.warning("pid %d is %s", process.pid, STATES[process.state])
            if not process.catches(signal.SIGUSR2):  # it would end one without a handler
                continue
            process.send(signal.SIGUSR2)
            if wake:
                process.send(signal.SIGCONT)
            time.sleep(STACK_S)  # one after the other, so that their lines do not mix

    def _as_told(self, code: int, was_overdue: bool) -> int:
        """Return the exit code of an attempt. A training that has finished is not undone by how a process of it ends;
        where we have ended its processes, its last word tells."""
        word = self.detector.last_word
        if word and word.kind == "finished":
            return 0
        if not (word and was_overdue):
            return code
        if word.kind == "stopped":
            return 128 + signal.Signals[str(word.data.get("signal"))]
        return 1

    # between attempts -----------------------------------------------------------------------------------------------

    def _verdict(self, code: int) -> AttemptVerdict:
        facts = evidence_on_host.facts(self.spec.workspace, self.spec.run_id, _shell_code(code), ended=True)
        found = diagnosis.diagnose(Evidence.of(self.spec.host, facts))
        if self._is_to_stop() or code == 0:
            return AttemptVerdict(found, None, self.train)
        easier = overrides.smaller(self.train) if found.cause in MEMORY and self._frees_memory(found) else None
        if easier:
            return AttemptVerdict(found, 0.0, easier)
        if not found.restart or found.cause == "out_of_gpu_memory" or self.detector.in_a_row > self.recovery.restarts:
            return AttemptVerdict(found, None, self.train)
        return AttemptVerdict(found, self.recovery.backoff(self.detector.in_a_row), self.train)

    def _frees_memory(self, found: Diagnosis) -> bool:
        """Tell whether smaller micro-batches would help: the GPU or host memory ran out."""
        return found.cause == "out_of_gpu_memory" or self.train.device == "cpu"

    def _tell_end(self, code: int, verdict: AttemptVerdict) -> None:
        found = verdict.diagnosis
        self._tell(
            "attempt_ended", attempt=self.detector.attempts, exit_code=code, cause=found.cause,
            summary=found.summary[:500], evidence=[str(line)[:300] for line in found.lines[:5]], next=found.next,
            oom_kills=evidence_on_host.counted_oom_kills(), restart_in_s=verdict.wait_s)
        if code:
            what = "no restart" if verdict.wait_s is None else f"restart in {verdict.wait_s:g} s"
            log.warning("attempt %d ended with %d: %s: %s; %s", self.detector.attempts, code, found.cause,
                        found.summary, what)

    def _prepare(self, verdict: AttemptVerdict) -> None:
        """Wait, and write the changed settings for the trainer."""
        if verdict.train != self.train:
            overrides.write(self.root, self.spec.train, verdict.train)
            changed = ", ".join(f"{k}={v}" for k, v in overrides.changes(self.train, verdict.train).items())
            message = (f"out of memory: continuing with {changed}; the global batch stays "
                       f"{verdict.train.global_batch_size}")
            self._tell("warning", message=message)
            log.warning("%s", message)
            self.train = verdict.train
        until_s = time.monotonic() + (verdict.wait_s or 0.0)
        while (left_s := until_s - time.monotonic()) > 0 and not self._is_to_stop():
            self._hear(supervised_program.wait(min(left_s, LOOK_S)))

    def _is_to_stop(self) -> bool:
        return self.asked is not None or Path(self.spec.paths.stop).exists() or any(
            event.kind == "stopped" for event in self.detector.events)

    def _tell_asked(self) -> None:
        """Record a stop signal that came while no attempt ran."""
        if self.asked and not any(event.kind == "stopped" for event in self.detector.events):
            self._tell("stopped", step=self.detector.last_step, signal=self.asked.name)

    # other supervisors -----------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock: two supervisors would end each other's training. It is released when the process ends."""
        with os.fdopen(locks.opened(str(self.root / LOCK)), "r+", encoding="utf-8") as file:
            if not locks.flocked(file.fileno()):
                raise RunError(f"{self.spec.run_id} already has a supervisor: see {self.root / LOCK}",
                               remedy="inv status")
            file.truncate(0)
            file.write(f"{processes.name_of(os.getpid())}\n")
            file.flush()
            yield

    def _take_over(self) -> None:
        """End the processes left by a killed supervisor; its ranks save first. Record the end of its attempt."""
        orphans = family.end(self.spec.run_id, grace_s=self.recovery.grace_s).found
        self.detector.look()
        self.detector.begin()
        if self.detector.is_open:
            summary = f"the supervisor was killed; {len(orphans)} processes that it left were ended"
            self._tell(
                "attempt_ended", attempt=self.detector.attempts, exit_code=None, cause="killed", summary=summary,
                evidence=[], next="", oom_kills=evidence_on_host.counted_oom_kills(), restart_in_s=0)
            log.warning("%s", summary)

    def _tell(self, kind: str, **data: Any) -> None:
        """Append to the Journal. A full disk must not end the supervision."""
        try:
            self.journal.append(kind, **data)
        except OSError as error:
            log.error("%s cannot be written: %s", self.journal.path, error)


def _shell_code(code: int) -> int:
    """Return the exit code of a shell: 137 for signal 9."""
    return code if code >= 0 else 128 - code


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lines(path: Path) -> int:
    """Count the lines of a file; 0 if it cannot be read."""
    try:
        with open(files.opened(path), "rb") as file:  # noqa: PTH123  # a descriptor
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0
