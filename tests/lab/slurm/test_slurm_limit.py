"""A training that runs into its time limit, and one on two nodes that learns the same. It takes minutes: Slurm counts
limits in minutes."""

from pathlib import Path

import pytest

from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine
from tests.lab.slurm.clusters import events, laptop, launched, steps, view, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]
HOSTS = {"limited": 'nodes = 1\ntime = "4"\nsave_before_limit_s = 60\nsbatch = ["--nodelist=n1"]\n',
         "spread": 'nodes = 2\ntime = "30"\n'}


@pytest.fixture(scope="module")
def inv(lab: Lab, cluster, tiny_hosts: Path, tmp_path_factory) -> CommandLine:
    inv = laptop(tmp_path_factory.mktemp("laptop"), tiny_hosts, HOSTS)
    inv.good("deploy --host limited", timeout_s=300)
    return inv


@pytest.fixture(scope="module")
def limited(inv) -> str:
    return launched(inv, "limited", "--set checkpoint_every_steps=20000")


@pytest.fixture
def runs(lab: Lab) -> Path:
    return lab.home("lab") / "cluster" / "runs"


def test_at_its_time_limit_a_run_saves_and_queues_itself_again(inv, limited, runs):
    """On a machine that is busy with other things the first limits may come before there is anything to save."""
    wait_for(lambda: any(e.data["resumed_from_step"] for e in events(runs, limited, "started")), limit_s=600)
    saved = events(runs, limited, "stopped")[0].data
    assert saved["signal"] == "SIGUSR1"
    assert saved["step"] in [e.data["resumed_from_step"] for e in events(runs, limited, "started")]
    assert events(runs, limited, "requeued")
    wait_for(lambda: steps(runs, limited)[-1] > saved["step"])
    told = steps(runs, limited)
    assert told == list(range(1, len(told) + 1))


def test_two_nodes_learn_what_one_machine_learns(inv, limited, runs):
    """Through a time limit there: every loss is the same number."""
    spread = launched(inv, "spread", "--set checkpoint_every_steps=10000")
    wait_for(lambda: len(steps(runs, spread)) > 30)
    inv.good(f"stop --host spread --run {spread} --grace 120", timeout_s=300)
    ours, theirs = ([e.data["loss"] for e in events(runs, run, "step")] for run in (spread, limited))
    common = min(len(ours), len(theirs))
    assert common > 20
    assert ours[:common] == theirs[:common]


def test_a_run_that_was_cancelled_on_the_cluster_is_stopped_and_says_so(inv, limited, cluster):
    cluster.client("scancel", view(inv, "limited", limited)["job"]["id"])
    run = wait_for(lambda: [r for r in [view(inv, "limited", limited)] if r["state"] == "stopped"])[0]
    assert run["job"]["cause"] == "cancelled"
    assert "was cancelled (scancel" in inv.good(f"status --host limited --run {limited}").out
