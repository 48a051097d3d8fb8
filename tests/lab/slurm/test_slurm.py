"""A training on two nodes of a cluster, as the user types it: Slurm's own daemons behind the jump host. Its time limit,
and what it learns beside one machine, are in test_slurm_limit.py."""

from pathlib import Path

import pytest

from rdtops.hostlib import manifest
from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine
from tests.lab.slurm.clusters import events, laptop, launched, steps, view, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def inv(lab: Lab, cluster, tiny_hosts: Path, tmp_path_factory) -> CommandLine:
    inv = laptop(tmp_path_factory.mktemp("laptop"), tiny_hosts, {"spread": 'nodes = 2\ntime = "30"\n'})
    inv.good("deploy --host spread", timeout_s=300)
    return inv


@pytest.fixture(scope="module")
def spread(inv, lab: Lab) -> str:
    """A run that has made its first steps."""
    run_id = launched(inv, "spread", "--set checkpoint_every_steps=10000")
    wait_for(lambda: len(steps(lab.home("lab") / "cluster" / "runs", run_id)) >= 3)
    return run_id


@pytest.fixture
def runs(lab: Lab) -> Path:
    return lab.home("lab") / "cluster" / "runs"


def test_slurm_is_asked_before_and_the_login_node_is_no_hindrance(inv):
    (report,) = inv.good("check --host spread --json").rows()
    found = {r["name"]: r for r in report["results"]}
    assert {name: found[name]["status"] for name in found if name.startswith("slurm")} == {
        "slurm partition": "OK", "slurm account": "SKIP", "slurm gpus": "SKIP", "slurm nodes": "OK",
        "slurm queue": "OK", "slurm workspace": "OK", "slurm time": "OK"}
    assert "Slurm expects to start it at 20" in found["slurm queue"]["summary"]
    assert found["slurm workspace"]["summary"] == "every node is this machine"
    assert found["memory"]["summary"] == "not checked: the login node does not train"
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
        assert "Slurm gives no state of job" in run["job"]["words"]
        wait_for(lambda: steps(runs, spread)[-1] > before)
    finally:
        cluster.start_controller()
    assert view(inv, "spread", spread)["state"] == "running"
    assert len(events(runs, spread, "scheduled")) == 1


def test_a_preempted_run_saves_waits_and_goes_on_where_it_was(inv, spread, runs, cluster):
    urgent = cluster.client("sbatch", "--parsable", "-p", "urgent", "-t", "9", "--nodelist=n2", "--exclusive", "-o",
                            "/dev/null", "--wrap=sleep 500").strip()
    waiting = wait_for(lambda: [r for r in [view(inv, "spread", spread)] if r["state"] == "queued"])[0]
    assert "is queued: " in waiting["job"]["words"]
    cluster.client("scancel", urgent)
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
