"""What the supervisor does when its program ends. Here that is a line of sh, which is quick to crash; with the real
training it is proven in tests/lab/drills/test_survive.py and tests/supervisor/test_memory.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdtops.contract.config import override, preset
from rdtops.contract.diagnosis import Evidence, diagnose
from rdtops.contract.journal import Event, Journal
from rdtops.contract.run import RunSpec
from rdtops.hostlib import processes
from rdtops.supervisor import evidence_on_host

ROOT = Path(__file__).parents[2]
OUT_OF_MEMORY = json.dumps({"kind": "failed", "time_s": 1, "step": 3, "error": "out of GPU memory: CUDA out of memory",
                            "type": "OutOfMemoryError", "rank": 0, "training": True})


class Supervised:
    """A run folder whose program is `line`."""

    def __init__(self, workspace: Path, line: str, *recovery: str) -> None:
        train = override(preset("tiny"), ["num_processes=1"])
        self.spec = RunSpec("20260101-000000-sh-0001", "here", "", str(workspace), str(ROOT), "s", {}, train)
        self.root = Path(self.spec.paths.root)
        self.root.mkdir(parents=True)
        Path(self.spec.paths.config).write_text(self.spec.to_json())
        Path(self.spec.paths.process).write_text("1 1 x\n")
        self.words = [sys.executable, "-m", "rdtops.supervisor", str(self.spec.paths.config),
                      *(recovery or ("backoff_s=0",)), "--", "sh", "-c", line]

    def supervise_rank(self, program: str) -> None:
        """Let its program be a rank of Python, and a second of silence or of leaving long."""
        (self.root / "program.py").write_text(program)
        self.words = [sys.executable, "-c", SHORT_LIMITS, str(self.spec.paths.config), "--",
                      sys.executable, "-m", "program", "rdtops.trainer.train"]

    def start(self) -> subprocess.Popen[bytes]:
        with Path(self.spec.paths.log).open("ab") as log:
            return subprocess.Popen(self.words, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    env={**os.environ, "PYTHONPATH": str(ROOT), "RDTOPS_RUN": self.spec.run_id})

    def run(self) -> int:
        return self.start().wait(60)

    def told(self, kind: str) -> list[Event]:
        return [e for e in Journal(Path(self.spec.paths.journal)).read() if e.kind == kind]

    @property
    def exit(self) -> str:
        return Path(self.spec.paths.exit).read_text()

    def wait_for(self, kind: str, times: int = 1) -> None:
        latest_s = time.monotonic() + 30
        while len(self.told(kind)) < times:
            assert time.monotonic() < latest_s, kind
            time.sleep(0.05)


@pytest.fixture
def supervise(tmp_path: Path) -> Callable[..., Supervised]:
    return lambda line, *recovery: Supervised(tmp_path, line, *recovery)


@pytest.fixture
def begun() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        one.kill()
        one.wait()


def test_a_program_that_ends_well_is_not_started_again(supervise) -> None:
    run = supervise("true")
    assert (run.run(), run.exit) == (0, "0\n")
    (ended,) = run.told("attempt_ended")
    assert (ended.data["cause"], ended.data["restart_in_s"]) == ("finished", None)


def test_crashes_without_progress_are_repeated_so_often_and_no_more(supervise) -> None:
    run = supervise("echo one line; exit 3", "restarts=2", "backoff_s=0.1")
    assert (run.run(), run.exit) == (3, "3\n")
    assert [e.data["restart_in_s"] for e in run.told("attempt_ended")] == [0.1, 0.2, None]
    attempts = run.told("attempt")
    assert [e.data["attempt"] for e in attempts] == [1, 2, 3]
    lines = Path(run.spec.paths.log).read_text().splitlines()
    assert [lines[e.data["log_line"] - 1] for e in attempts] == ["one line"] * 3  # where the log of each begins


def test_a_checkpoint_between_crashes_starts_the_count_anew(supervise) -> None:
    run = supervise('n=$(grep -c \'"kind": "attempt"\' journal.jsonl); [ "$n" -ge 5 ] && exit 0; '
                    'echo "{\\"kind\\": \\"checkpoint\\", \\"time_s\\": 1, \\"step\\": $n}" >> journal.jsonl; exit 1',
                    "restarts=1", "backoff_s=0")
    assert run.run() == 0
    assert len(run.told("attempt")) == 5


@pytest.mark.parametrize(("words", "cause"), [
    ("OSError: [Errno 28] No space left on device", "disk_full"),
    ("step 7: the loss is not finite; its samples: a.hdf5: demo_1, step 3", "not_finite"),
    ("ModuleNotFoundError: No module named diffusers", "environment"),
    ("training configuration: model = x: must be one of tiny, small", "config")])
def test_what_a_restart_cannot_mend_is_not_restarted(supervise, words, cause) -> None:
    run = supervise(f"echo '{words}'; exit 1")
    assert run.run() == 1
    (ended,) = run.told("attempt_ended")
    assert (ended.data["cause"], ended.data["restart_in_s"]) == (cause, None)
    assert ended.data["evidence"] == [f"train.log:1: {words}"]


def test_out_of_gpu_memory_is_met_with_smaller_batches_then_with_checkpointing_then_with_the_end(supervise) -> None:
    run = supervise(f"echo '{OUT_OF_MEMORY}' >> journal.jsonl; exit 1")
    assert run.run() == 1
    used = [(e.data["batch_size_per_process"], e.data["gradient_accumulation_steps"], e.data["gradient_checkpointing"])
            for e in run.told("attempt")]
    assert used == [(4, 1, "auto"), (2, 2, "auto"), (1, 4, "auto"), (1, 4, True)]
    assert {e.data["cause"] for e in run.told("attempt_ended")} == {"out_of_gpu_memory"}
    assert json.loads((run.root / "overrides.json").read_text()) == {
        "of": run.spec.train.digest, "batch_size_per_process": 1, "gradient_accumulation_steps": 4,
        "gradient_checkpointing": True}
    assert run.told("warning")[0].data["message"] == (
        "out of memory: continuing with batch_size_per_process=2, gradient_accumulation_steps=2; the global batch "
        "stays 4")


# ranks with a loader worker, as the trainer starts it; what a silent rank waits for is told by a file
SILENT = """
import multiprocessing, pathlib, time
from rdtops.trainer import child_processes, stacks
def reads_a_slow_disk():
    child_processes.end_with_parent()
    stacks.write_on_request()
    time.sleep(600)
def waits_for_the_others():
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
if __name__ == "__main__":
    stacks.write_on_request()
    with child_processes.shielded():
        multiprocessing.get_context("spawn").Process(target=reads_a_slow_disk, daemon=True).start()
    waits_for_the_others()
    while not pathlib.Path("end").exists():
        print("a line", flush=True)
        time.sleep(0.2)
    child_processes.kill_all()
"""
# it says its last word and stays, with a child that has a session of its own
STAYS = """
import json, os, pathlib, signal, subprocess, sys, time
from rdtops.trainer import stacks
stacks.write_on_request()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"], start_new_session=True)
def hangs():
    time.sleep(600)
with open("journal.jsonl", "a") as journal:
    journal.write(json.dumps({"time_s": time.time(), **json.loads(pathlib.Path("word").read_text())}) + "\\n")
hangs()
"""
SHORT_LIMITS = ("import sys; from rdtops.supervisor import pulse; from rdtops.supervisor.__main__ import main; "
                "pulse.SILENCE_S = pulse.FAILED_S = pulse.LEFT_S = 1.0; sys.exit(main(sys.argv[1:]))")


def test_a_silence_before_the_first_step_is_told_with_the_stacks_of_the_ranks(supervise, begun) -> None:
    run = supervise("")
    run.supervise_rank(SILENT)
    begun.append(run.start())
    run.wait_for("silent")
    (silent,) = run.told("silent")
    assert silent.data["silent_s"] >= 1
    assert [rank["rank"] for rank in silent.data["ranks"]] == [0]
    evidence = Evidence.of("here", evidence_on_host.facts(run.spec.workspace, run.spec.run_id))
    while not evidence.messages or not any("in waits_for_the_others" in line.text for line in evidence.log):
        time.sleep(0.1)
        evidence = Evidence.of("here", evidence_on_host.facts(run.spec.workspace, run.spec.run_id))
    found = diagnose(evidence)
    assert (found.cause, found.passed) == ("silent", False)
    assert any("in waits_for_the_others" in line.text for line in found.lines)
    assert any("in reads_a_slow_disk" in line.text for line in evidence.log)
    (run.root / "go").touch()
    run.wait_for("heard")
    assert len(run.told("silent")) == 1  # its own stacks were not taken for a line of the training
    (run.root / "end").touch()
    assert begun[0].wait(20) == 0


@pytest.mark.parametrize(("word", "code", "cause"), [
    ({"kind": "failed", "step": 3, "error": "a.hdf5: demo_1, step 4, obs/x cannot be read", "type": "DataError"}, 1,
     "bad_sample"),
    ({"kind": "finished", "step": 9, "loss": 0.1}, 0, "finished"),
    ({"kind": "stopped", "step": 9, "signal": "SIGTERM"}, 143, "stopped")], ids=["failed", "finished", "stopped"])
def test_who_has_said_the_last_word_and_stays_is_ended_and_the_word_counts(supervise, word, code, cause) -> None:
    run = supervise("")
    run.supervise_rank(STAYS)
    (run.root / "word").write_text(json.dumps(word))
    assert (run.run(), run.exit) == (code, f"{code}\n")
    (ended,) = run.told("attempt_ended")
    assert (ended.data["cause"], ended.data["restart_in_s"]) == (cause, None)
    assert not run.told("stuck")
    assert run.told("warning")[0].data["message"].startswith(f"{word['kind']}, but its processes had not ended")
    assert "in hangs" in Path(run.spec.paths.log).read_text()
    assert processes.carrying(f"RDTOPS_RUN={run.spec.run_id}") == []


def test_a_training_that_has_finished_is_not_undone_by_how_its_launcher_ends(supervise) -> None:
    run = supervise("""echo '{"kind": "finished", "time_s": 1, "step": 9, "loss": 0.1}' >> journal.jsonl; exit 1""")
    assert (run.run(), run.exit) == (0, "0\n")
    assert run.told("attempt_ended")[0].data["cause"] == "finished"


def test_the_stacks_of_loader_workers_are_written_before_a_stuck_training_is_ended(supervise) -> None:
    run = supervise("")
    run.supervise_rank(SILENT)
    run.words.insert(run.words.index("--"), "setup_limit_s=4")
    run.words.insert(run.words.index("--"), "restarts=0")
    assert run.run() == 137
    log = Path(run.spec.paths.log).read_text()
    stacks = log[log.index("no event for"):]
    assert stacks.index("in reads_a_slow_disk") < stacks.index("in waits_for_the_others")  # the rank's are the last
    assert run.told("attempt_ended")[0].data["cause"] == "stuck"


def test_a_process_that_could_not_write_its_stack_is_not_asked_for_it(supervise, begun) -> None:
    run = supervise("")
    run.supervise_rank("import time; time.sleep(6)")  # it imports its modules, say: it has no handler yet
    begun.append(run.start())
    run.wait_for("silent")
    assert begun[0].wait(20) == 0


def test_a_stop_while_it_waits_for_a_restart_ends_it_at_once(supervise, begun) -> None:
    run = supervise("exit 3", "backoff_s=60")
    begun.append(run.start())
    run.wait_for("attempt_ended")
    begun[0].send_signal(signal.SIGTERM)
    assert begun[0].wait(10) == 3
    assert [e.data["signal"] for e in run.told("stopped")] == ["SIGTERM"]
    assert len(run.told("attempt")) == 1


def test_a_terminal_that_goes_takes_nothing_with_it(supervise, begun) -> None:
    run = supervise("while [ ! -e go ]; do sleep 0.1; done", "restarts=0")
    begun.append(run.start())
    run.wait_for("attempt")
    begun[0].send_signal(signal.SIGHUP)
    time.sleep(0.5)
    (run.root / "go").touch()
    assert begun[0].wait(10) == 0


def test_a_second_supervisor_is_refused_and_harms_nothing(supervise, begun) -> None:
    run = supervise("while [ ! -e go ]; do sleep 0.1; done", "restarts=0")
    begun.append(run.start())
    run.wait_for("attempt")
    assert run.run() == 1
    assert "already has a supervisor" in Path(run.spec.paths.log).read_text()
    (run.root / "go").touch()
    assert begun[0].wait(10) == 0


def test_a_supervisor_that_was_killed_is_followed_by_one_that_ends_what_it_left(supervise, begun) -> None:
    run = supervise('[ -e go ] && exit 0; echo $$ > left; sleep 600')
    begun.append(run.start())
    run.wait_for("attempt")
    while not (run.root / "left").exists():
        time.sleep(0.05)
    begun[0].kill()
    begun[0].wait()
    left = int((run.root / "left").read_text())
    assert Path(f"/proc/{left}").exists()
    (run.root / "go").touch()
    assert run.run() == 0
    stat = Path(f"/proc/{left}/stat")
    assert not stat.exists() or " Z " in stat.read_text()
    first, second = run.told("attempt_ended")
    assert (first.data["exit_code"], first.data["cause"], second.data["attempt"]) == (None, "killed", 2)


def test_a_wrong_word_is_one_line(supervise) -> None:
    run = supervise("true", "restart=5")
    assert run.run() == 2
    assert "unknown setting 'restart'; settings: restarts" in Path(run.spec.paths.log).read_text()
