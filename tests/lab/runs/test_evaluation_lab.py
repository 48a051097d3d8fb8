"""`inv eval` as the user types it: real SSH, the real simulator, a checkpoint that was trained a minute before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from rdtops.contract.journal import Journal
from rdtops.hostlib import manifest, processes
from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine
from tests.trainer.worlds import needs_simulator

pytestmark = [pytest.mark.lab, pytest.mark.simulator, needs_simulator, pytest.mark.timeout(600)]
SHORT = "--set max_steps=4 --set checkpoint_every_steps=2 --set num_processes=1 --set sample_every_steps=0"
EVAL = ("eval --host lab --checkpoint best --benchmark libero_90 --tasks 1 --trials 2 --max-steps 4 --exec-horizon 3 "
        "--processes 1 --record-video")


@pytest.fixture(scope="module")
def inv(lab: Lab, tiny_hosts: Path, tmp_path_factory) -> CommandLine:
    folder = tmp_path_factory.mktemp("laptop")
    hosts = folder / "hosts.toml"
    hosts.write_text(tiny_hosts.read_text() + f'\n[hosts.lab.plugins.video_download]\ninto = "{folder / "results"}"\n')
    return CommandLine(folder, hosts)


@pytest.fixture(scope="module")
def run(inv, lab: Lab):
    """A short training, by its row of `inv status`, and its folder on the host."""
    inv.good(f"deploy check train --host lab {SHORT} --follow", timeout_s=300)
    (row,) = inv.good("status --host lab --json").rows()
    assert row["state"] == "finished"
    return row, lab.home("lab") / "rdtops" / "runs" / row["run_id"]


def test_an_evaluation_is_asked_for_survives_a_kill_and_comes_home(inv, run):
    row, there = run
    (launched,) = inv.good(f"{EVAL} --json", timeout_s=120).rows()
    assert (launched["run_id"], launched["trials"]) == (row["run_id"], 2)
    folder = there / "eval" / launched["name"]
    trials = folder / "trials.jsonl"
    wait_for(lambda: trials.exists() and trials.read_text().count("\n") == 1)
    for process in processes.carrying(f"RDTOPS_EVAL={row['run_id']}/{launched['name']}"):
        os.kill(process, signal.SIGKILL)
    (status,) = inv.good("status --host lab --json").rows()
    assert {**status, "evaluations": []} == row
    (lost,) = status["evaluations"]
    assert (lost["state"], lost["success"] + lost["failure"]) == ("lost", 1)

    first = trials.read_text()
    followed = inv.good(f"{EVAL} --follow", timeout_s=300)
    assert trials.read_text().startswith(first)
    assert len(trials.read_text().splitlines()) == 2
    assert "2 trials of 1 tasks, 1 of them done before" in followed.out
    assert "0 of 2" in followed.out
    assert "video_download: page" in followed.out
    report = json.loads((folder / "report.json").read_text())
    assert (report["total"]["trials"], report["codec"]["stated_by"]) == (2, "the checkpoint")

    home = inv.results / "lab" / row["run_id"] / "eval" / launched["name"]
    for name in ("report.json", *(t["video"] for t in report["trials"])):
        assert manifest.md5_of(home / name) == manifest.md5_of(folder / name)
        assert name == "report.json" or f'src="{name}"' in (home / "index.html").read_text()
    kinds = [e.kind for e in Journal(there / "journal.jsonl").read()]
    assert kinds[-5:] == ["eval_started", "trial", "eval_started", "trial", "eval_finished"]

    again = inv.good(EVAL, timeout_s=120)
    assert "is finished already" in again.err
    (fetched,) = inv.good(f"fetch-results --host lab --into {inv.results} --json").rows()
    assert fetched["evaluations"] == [launched["name"]]
    assert (home / "eval.log").exists()
    assert "0 / 2" in inv.good("logs --host lab --eval").out


def test_a_checkpoint_in_the_layout_before_rdtops_is_evaluated_and_stopped(inv, run, lab):
    row, there = run
    old = lab.home("lab") / "old" / "checkpoint-30000"
    (old / "ema").mkdir(parents=True)
    shutil.copy(there / "checkpoints" / "step_000004" / "ema" / "model.safetensors", old / "ema")
    shutil.copy(there / "checkpoints" / "step_000004" / "config.json", old)
    wish = "eval --host lab --checkpoint ~/old/checkpoint-30000/ema/model.safetensors --tasks 2 --max-steps 200"
    inv.refused(wish, 1, "does not name its codec", "--codec seed_compat")
    started = inv.good(f"{wish} --codec seed_compat", timeout_s=120)
    assert "40 trials of 2 tasks" in started.out
    assert "the codec seed_compat is from the command line" in started.out
    inv.good(f"stop --host lab --run {stand_in(inv)} --eval", timeout_s=120)
    (status,) = inv.good(f"status --host lab --run {stand_in(inv)} --json").rows()
    (stopped,) = status["evaluations"]
    assert (status["state"], stopped["state"]) == ("prepared", "stopped")
    (newest,) = inv.good("status --host lab --json").rows()
    assert newest["run_id"] == row["run_id"]
    assert processes.carrying(f"RDTOPS_EVAL={status['run_id']}/{stopped['name']}") == []


def stand_in(inv):
    return inv.good("status --host lab --all --json").rows()[0]["run_id"]


@pytest.mark.parametrize(("words", "code", "said"), [
    ("--tasks fly", 2, ["no task called 'fly'", "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"]),
    ("--exec-horizon 17", 1, ["predicts 16 actions at a time; 17", "--exec-horizon 16"]),
    ("--checkpoint 7", 1, ["no checkpoint '7'", "step_000004"]),
    ("--benchmark libero90 --trials 51", 2, ["did you mean 'libero_90'", "libero_spatial"]),
])
def test_what_cannot_be_evaluated_is_refused_before_anything_starts(words, code, said, inv, run):
    inv.refused(f"eval --host lab {words}", code, *said)
    assert "running" not in inv.good("status --host lab").out


def wait_for(holds, limit_s=240):
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)
