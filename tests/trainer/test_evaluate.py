"""The evaluation as a program: real simulator, real checkpoint, and a worker that is killed in a trial."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from proofs.staging.small_disk import fill, make_room, small_disk
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.errors import SimulatorError
from rdtops.lab import lab_processes
from rdtops.trainer import evaluate, train
from rdtops.trainer.simulation import first_frame, simulator, trained
from rdtops.trainer.simulation.trials import Trial, TrialLog
from tests.trainer.conftest import REPOSITORY, SHORT, flip, signals_as_they_were, write_run
from tests.trainer.worlds import DRAWER, needs_simulator

WISH = ["--checkpoint", "latest", "--tasks", f"{DRAWER},", "--max-steps", "4", "--exec-horizon", "3"]


@pytest.fixture(scope="module")
def run(assets, tmp_path_factory) -> Path:
    """The folder of a run that was trained for two steps."""
    spec = write_run(tmp_path_factory.mktemp("workspace"), "trained", assets, *SHORT, "max_steps=2")
    with signals_as_they_were():
        assert train.main([str(spec.paths.config)]) == 0
    return Path(spec.paths.root)


def command(run, *words):
    return [sys.executable, "-m", "rdtops.trainer.evaluate", "--run", str(run), *WISH, *words]


def said(capsys, run, *words):
    with signals_as_they_were():
        code = evaluate.main(["--run", str(run), *WISH, *words])
    return code, capsys.readouterr()


def wait_for(holds, limit_s=200):
    end = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def workers_of(pid):
    return [one for one in lab_processes.family(pid) if "spawn_main" in lab_processes.command_line(one)]


@needs_simulator
def test_a_worker_killed_within_a_trial_costs_an_attempt_and_a_second_start_repeats_nothing(run, capsys):
    words = ["--trials", "2", "--record-video"]
    with subprocess.Popen(command(run, *words), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as program:
        (folder,) = wait_for(lambda: list(run.glob("eval/*")))
        trials = folder / "trials.jsonl"
        wait_for(lambda: trials.exists() and trials.read_text().count("\n") == 1)
        (worker,) = workers_of(program.pid)
        os.kill(worker, signal.SIGKILL)
        out = program.communicate(timeout=200)[0]
    assert program.returncode == 0, out
    assert "the process was killed by SIGKILL" in out
    found = [json.loads(line) for line in trials.read_text().splitlines()]
    assert [(t["trial"], t["attempt"], t["outcome"], t["steps"]) for t in found] == [
        (0, 1, "failure", 4), (1, 2, "failure", 4)]
    assert all((folder / t["video"]).stat().st_size > 1000 for t in found)
    report = json.loads((folder / "report.json").read_text())
    assert (report["total"]["successes"], report["total"]["trials"], report["total"]["errors"]) == (0, 2, 0)
    assert report["protocol"]["settling_steps"] == 10

    before = trials.read_bytes()
    code, _ = said(capsys, run, *words)
    assert code == 0
    assert trials.read_bytes() == before
    events = [e for e in Journal(run / "journal.jsonl").read() if e.kind.startswith("eval_") or e.kind == "trial"]
    assert [e.kind for e in events] == ["eval_started", "trial", "trial", "eval_finished", "eval_started",
                                        "eval_finished"]
    assert events[3].data["digest"] == events[5].data["digest"]  # nobody has to look at it again


@needs_simulator
def test_the_check_says_what_would_be_done_and_writes_nothing(run, capsys):
    before = sorted(run.rglob("*"))
    code, spoken = said(capsys, run, "--check", "--trials", "3")
    assert code == 0
    plan = json.loads(spoken.out)
    assert [t["name"] for t in plan["tasks"]] == [DRAWER]
    assert plan["first_frame"]["renderer"].startswith(("egl, device ", "osmesa ("))
    assert plan["notes"][-1].startswith("one world was built and drawn in ")
    assert sorted(run.rglob("*")) == before


@needs_simulator
@pytest.mark.parametrize(("words", "code", "spoken"), [
    (["--tasks", "fly"], 2, "no task called 'fly'"),
    (["--exec-horizon", "17"], 1, "next: --exec-horizon 16"),
    (["--device", "cuda"], 1, "sees no GPU"),
])
def test_what_cannot_be_evaluated_is_refused_with_the_difference(words, code, spoken, run, capsys):
    if words[-1] == "cuda" and evaluate.torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    found, texts = said(capsys, run, "--check", *words)
    assert (found, spoken in texts.err) == (code, True), texts.err


@needs_simulator
def test_another_encoder_is_found_by_the_check_and_evaluated_when_it_is_meant(run, capsys, tmp_path):
    spec = RunSpec.load(run / "config.json")
    copied = Path(shutil.copytree(run, tmp_path / "workspace" / "runs" / run.name))
    other = Path(shutil.copytree(spec.assets["vision_encoder"], tmp_path / "other"))
    flip(other / "model.safetensors")
    (copied / "config.json").write_text(replace(spec, assets={**spec.assets, "vision_encoder": str(other)}).to_json())
    code, texts = said(capsys, copied, "--check")
    assert code == 2
    assert "was trained on other files than those here: vision_encoder other: 1 of 2 files differs" in texts.err
    assert "next: inv eval --set vision_encoder=other   # if that is meant" in texts.err
    code, texts = said(capsys, copied, "--check", "--accept-changed", "vision_encoder")
    assert code == 0
    told = json.loads(texts.out)
    assert told["notes"][0].startswith("evaluated with other encoders than in training, as requested: vision_encoder")
    assert sorted(told["encoders"]) == ["text_encoder", "tokenizer", "vision_encoder"]


@pytest.mark.parametrize(("words", "code", "spoken"), [
    (["--benchmark", "libero90"], 2, "did you mean 'libero_90'"),
    (["--trials", "51"], 2, "--trials 51: must be from 1 to 50"),
    (["--checkpoint", "7"], 1, "has no checkpoint '7'; it has: step_000002"),
])
def test_what_makes_no_sense_is_refused_without_a_simulator(words, code, spoken, run, capsys):
    found, texts = said(capsys, run, "--check", *words)
    assert (found, spoken in texts.err) == (code, True), texts.err


def test_a_missing_simulator_names_the_extra_and_the_system_packages(run, capsys, monkeypatch):
    monkeypatch.setattr(simulator, "PACKAGES", ("no_such_package",))
    code, texts = said(capsys, run, "--check")
    assert code == 1
    assert "no no_such_package" in texts.err
    assert 'next: inv deploy --env   # with extras = ["eval"]' in texts.err
    assert "[trainer,eval]'; apt-get install libegl1" in texts.err


def test_two_evaluations_in_one_folder_are_refused(tmp_path):
    with (evaluate._alone(tmp_path), pytest.raises(evaluate.RunError, match="is already running"),
          evaluate._alone(tmp_path)):
        pass


class NeverDraws:
    """A worker, in a process of its own, whose every trial raises."""

    def __init__(self, asked, number, beat):
        pass

    def __call__(self, job):
        raise RuntimeError("eglMakeCurrent failed")


class Crashes:
    def __init__(self, asked, number, beat):
        os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(("worker", "tried", "reason"), [
    (NeverDraws, 3, "the first 3 trials ended with an error, so the others were not tried: RuntimeError: eglMake"),
    (Crashes, 0, "3 processes in a row ended before they were ready: the process ended with SIGSEGV (exit 139): a ")])
def test_an_evaluation_without_hope_ends_early_and_says_why(worker, tried, reason, run, capsys, monkeypatch):
    words = ["--run", str(run), *WISH, "--trials", "40", "--seed", str(40 + tried)]
    spec = evaluate._requested(evaluate._parser().parse_args(words))
    task = simulator.Task("libero_90", 0, DRAWER, "close the drawer", "none.bddl")
    asked = evaluate.Examination(spec, trained.find(spec.checkpoint, spec.protocol.codec), (task,))
    Path(spec.paths.root).mkdir(parents=True)
    monkeypatch.setattr(evaluate, "Examiner", worker)
    assert evaluate._recorded(asked) == 1
    assert reason in capsys.readouterr().err
    report = json.loads(Path(spec.paths.report).read_text())
    assert report["failure"].startswith(reason)
    assert report["notes"][-1] == f"failed: {report['failure']}"
    assert (report["total"]["trials"], report["total"]["errors"]) == (0, tried)
    (failed,) = [e.data for e in Journal(run / "journal.jsonl").read() if e.data.get("name") == spec.name
                 and e.kind == "eval_failed"]
    assert failed["error"].startswith(reason)


@pytest.mark.parametrize(("program", "limit_s", "words"), [
    ("import os; os.kill(os.getpid(), 11)", 60, "ended with SIGSEGV (exit 139): a native library crashed"),
    ("import time; time.sleep(60)", 1, "the simulator drew nothing within 1 s"),
    ("raise ValueError('no such scene')", 60, "the first frame cannot be drawn: ValueError: no such scene"),
    ("import sys; sys.exit('LIBERO is gone\\nnext: install it')", 60, "LIBERO is gone")])
def test_a_first_frame_that_is_not_drawn_is_told_in_a_sentence(program, limit_s, words, tmp_path, monkeypatch):
    package = tmp_path / "rdtops" / "trainer" / "simulation"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "first_frame.py").write_text(program)
    monkeypatch.setattr(first_frame, "RELEASE", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SimulatorError) as caught:
        first_frame.draw(simulator.Task("libero_90", 0, DRAWER, "", ""), 128, limit_s=limit_s)
    assert words in caught.value.message
    assert caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk_costs_no_trial_that_was_told_and_is_named(run, capsys):
    """Its folder on a disk of its own. The simulator is not needed to write down what became of trials."""
    spec = evaluate._requested(evaluate._parser().parse_args(["--run", str(run), *WISH]))
    asked = evaluate.Examination(spec, trained.find(spec.checkpoint, spec.protocol.codec), ())
    folder = Path(spec.paths.root)
    trials = TrialLog(Path(spec.paths.trials))
    with small_disk(folder, 1_000_000):
        trials.append(Trial("a", 0, "success"))
        fill(folder, 0)
        with contextlib.suppress(OSError):
            for number in range(1, 100):  # the last page of the file has room for some
                trials.append(Trial("a", number, "success"))
        told = trials.read()
        assert len(told) < 100
        assert evaluate._recorded(asked) == 1
        failed = [e.data for e in Journal(run / "journal.jsonl").read() if e.kind == "eval_failed"][-1]
        assert failed["error"].startswith(f"no space on {folder} for {folder}: 0.0 MB are free (No space left")
        assert failed["remedy"].startswith(f"du -xh -d 2 {folder} ")
        assert "Traceback" not in capsys.readouterr().err
        make_room(folder)
        trials.append(Trial("a", len(told), "success"))
        assert trials.read().keys() == {*told, ("a", len(told))}
        assert trials.path.read_text().count("\n") == len(told) + 1  # no piece of a line between them
        assert evaluate._recorded(asked) == 0
