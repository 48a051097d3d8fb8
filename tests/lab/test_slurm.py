"""Trainings on a cluster: Slurm's own daemons, two nodes, behind the jump host, as the user types it.

Two trainings do for all of it: one on two nodes, and one on one node that runs into its time limit meanwhile.
"""

import time
from pathlib import Path

import pytest

from rdtops.contract import manifest
from rdtops.contract.journal import Journal
from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
LIMITED = 'nodes = 1\ntime = "2"\nsave_before_limit_s = 60\nsbatch = ["--nodelist=n1"]\n'  # room for half a minute
SPREAD = 'nodes = 2\ntime = "10"\n'
SETTINGS = "--set max_steps=20000 --set heldout_share=0"


@pytest.fixture(scope="module")
def inv(lab: Lab, cluster, tiny_hosts: Path, tmp_path_factory) -> CommandLine:
    """`limited` and `spread` are the same login node, with other options of jobs."""
    folder = tmp_path_factory.mktemp("laptop")
    text = tiny_hosts.read_text()
    login = text[text.index("[hosts.lab]") + len("[hosts.lab]"):text.index("[hosts.lab2]")]
    login = "\n".join(line for line in login.splitlines() if not line.startswith("default"))
    for name, options in (("limited", LIMITED), ("spread", SPREAD)):
        text += f'\n[hosts.{name}]{login}\nlauncher = "slurm"\n[hosts.{name}.plugins.slurm]\n{options}'
    (folder / "hosts.toml").write_text(text.replace('"~/rdtops"', '"~/cluster"'))
    return CommandLine(folder, folder / "hosts.toml")


@pytest.fixture(scope="module")
def limited(inv) -> str:
    """A run whose time limit comes a minute after its start; it goes on while the others are looked at."""
    inv.good("deploy --host limited", timeout_s=200)
    line = inv.good(f"train --host limited {SETTINGS} --set checkpoint_every_steps=20000", timeout_s=200)
    assert "handed to Slurm, job " in line.out
    return inv.good("status --host limited --json").rows()[-1]["run_id"]


@pytest.fixture(scope="module")
def spread(inv, limited) -> str:
    """A run on two nodes that has made its first steps."""
    inv.good(f"train --host spread {SETTINGS} --set checkpoint_every_steps=10000", timeout_s=200)
    (run,) = [r for r in inv.good("status --host spread --all --json").rows() if r["run_id"] != limited]
    wait_for(lambda: view(inv, "spread", run["run_id"])["step"] >= 5)
    return run["run_id"]


@pytest.fixture
def runs(lab: Lab) -> Path:
    return lab.home("lab") / "cluster" / "runs"


def events(runs: Path, run_id: str, *kinds: str):
    return [e for e in Journal(runs / run_id / "journal.jsonl").read() if e.kind in kinds]


def steps(runs: Path, run_id: str) -> list[int]:
    return [e.data["step"] for e in events(runs, run_id, "step")]


def view(inv, host: str, run_id: str):
    return inv.good(f"status --host {host} --run {run_id} --json").rows()[0]


def wait_for(look, limit_s=150.0):
    end = time.monotonic() + limit_s
    while not (seen := look()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)
    return seen


def test_slurm_is_asked_before_and_the_login_node_is_no_hindrance(inv, limited):
    (report,) = inv.good("check --host spread --json").rows()
    found = {r["name"]: r for r in report["results"]}
    assert {name: found[name]["status"] for name in found if name.startswith("slurm")} == {
        "slurm partition": "OK", "slurm account": "SKIP", "slurm gpus": "SKIP", "slurm nodes": "OK",
        "slurm queue": "OK", "slurm workspace": "OK", "slurm time": "OK"}
    assert "Slurm expects to start it at 20" in found["slurm queue"]["summary"]
    assert found["slurm workspace"]["summary"] == "every node is this very machine"
    assert found["memory"]["summary"] == "of the login node, which does not train"
    assert found["gpu"]["status"] == "SKIP"


def test_the_files_of_the_job_are_shown_before_and_kept_after(inv, spread, runs):
    shown = inv.good("train --host spread --dry-run").out
    for words in ("#SBATCH --nodes=2", "#SBATCH --requeue", "#SBATCH --signal=B:USR1@300", "srun --nodes=2",
                  '--machine_rank "$SLURM_NODEID"'):
        assert words in shown
    kept = (runs / spread / "job.sbatch").read_text()
    assert kept.startswith(f"#!/bin/sh\n#SBATCH --job-name=rdtops-{spread}\n")


def test_two_nodes_train_together(inv, spread, runs):
    run = view(inv, "spread", spread)
    (scheduled,) = events(runs, spread, "scheduled")
    assert (scheduled.data["job"], scheduled.data["nodes"]) == (run["job"]["id"], "n[1-2]")
    assert events(runs, spread, "started")[0].data["world_size"] == 2
    assert (run["state"], run["job"]["phase"]) == ("running", "running")
    assert "runs on n[1-2]" in inv.good(f"status --host spread --run {spread}").out


def test_the_gpus_of_the_nodes_are_shown(inv, spread):
    assert inv.good("gpu --host spread").out.count("NVIDIA-SMI") == 2


def test_a_controller_that_restarts_is_unknown_meanwhile_and_the_run_goes_on(inv, spread, runs, cluster):
    cluster.stop_controller()
    try:
        before = steps(runs, spread)[-1]
        run = view(inv, "spread", spread)
        assert run["state"] == "unknown"
        assert "Slurm does not tell of job" in run["job"]["words"]
        wait_for(lambda: steps(runs, spread)[-1] > before)
    finally:
        cluster.start_controller()
    assert view(inv, "spread", spread)["state"] == "running"
    assert len(events(runs, spread, "scheduled")) == 1


def test_a_preempted_run_saves_waits_and_goes_on_where_it_was(inv, spread, runs, cluster):
    cluster.client("sbatch", "-p", "urgent", "-t", "1", "--nodelist=n2", "--exclusive", "-o", "/dev/null",
                   "--wrap=sleep 4")
    waiting = wait_for(lambda: [r for r in [view(inv, "spread", spread)] if r["state"] == "queued"])[0]
    assert "is queued: " in waiting["job"]["words"]
    wait_for(lambda: len(events(runs, spread, "started")) == 2, limit_s=300)
    saved = events(runs, spread, "stopped")[-1].data
    assert saved["signal"] == "SIGTERM"
    assert events(runs, spread, "started")[-1].data["resumed_from_step"] == saved["step"]
    assert [e.data["restarts"] for e in events(runs, spread, "scheduled")] == [0, 1]
    wait_for(lambda: steps(runs, spread)[-1] > saved["step"])
    told = steps(runs, spread)
    assert told == list(range(1, len(told) + 1))  # none twice, none lost


def test_a_stopped_run_saves_first_and_is_not_queued_again(inv, spread, runs):
    inv.good(f"stop --host spread --run {spread} --grace 60")
    run = view(inv, "spread", spread)
    assert (run["state"], run["job"]["phase"]) == ("stopped", "ended")
    last = events(runs, spread, "stopped")[-1].data
    newest = max((runs / spread / "checkpoints").iterdir())
    assert newest.name == f"step_{last['step']:06d}"
    assert manifest.differences(newest, manifest.read(newest)) == []


def test_at_its_time_limit_a_run_saves_and_queues_itself_again(inv, limited, runs):
    """On a machine that is busy with other things the first limits may come before there is anything to save."""
    wait_for(lambda: any(e.data["resumed_from_step"] for e in events(runs, limited, "started")), limit_s=300)
    saved = events(runs, limited, "stopped")[0].data
    assert saved["signal"] == "SIGUSR1"
    assert saved["step"] in [e.data["resumed_from_step"] for e in events(runs, limited, "started")]
    assert events(runs, limited, "requeued")
    wait_for(lambda: steps(runs, limited)[-1] > saved["step"])
    told = steps(runs, limited)
    assert told == list(range(1, len(told) + 1))


def test_two_nodes_learn_what_one_machine_learns(spread, limited, runs):
    """Through a preemption here and a time limit there: every loss is the same number."""
    ours, theirs = ([e.data["loss"] for e in events(runs, run, "step")] for run in (spread, limited))
    common = min(len(ours), len(theirs))
    assert common > 20
    assert ours[:common] == theirs[:common]


def test_a_run_that_was_cancelled_on_the_cluster_is_stopped_and_says_so(inv, limited, cluster):
    cluster.client("scancel", view(inv, "limited", limited)["job"]["id"])
    run = wait_for(lambda: [r for r in [view(inv, "limited", limited)] if r["state"] == "stopped"])[0]
    assert run["job"]["cause"] == "cancelled"
    assert "was cancelled (scancel" in inv.good(f"status --host limited --run {limited}").out
